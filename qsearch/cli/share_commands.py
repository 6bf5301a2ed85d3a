"""Commands that share studies: ``list``, ``index``, ``archive`` and ``restore``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qsearch._text import warn, with_error
from qsearch.cli.arguments import Json, StudyDirectory
from qsearch.cli.console import print_line, print_table, report_function
from qsearch.errors import InputError


def list_studies(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of study directories.", metavar="FOLDER")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="Database URL.")] = None,
    json_: Json = False,
) -> None:
    """List the studies in a database, or in a folder: how far they are and who runs them."""
    from dataclasses import asdict

    from qsearch.sharing.listing import list_database, list_folder

    if (folder is None) == (storage is None):
        raise InputError("give either a folder or --storage URL")
    studies = list_database(storage) if storage else list_folder(folder or Path(), warn)
    rows = [asdict(study) for study in studies]
    if json_:
        print_line(json.dumps(rows))
    elif rows:
        headings = ["study", *(name.replace("_", " ") for name in rows[0] if name != "name")]
        print_table(headings, ([_cell(value) for value in row.values()] for row in rows))
    else:
        print_line("no studies")


def _cell(value: str | float | None) -> str:
    if value == "":
        return "no"  # Nobody runs it.
    return "" if value is None else with_error(value) if isinstance(value, float) else str(value)


def index(
    folder: Annotated[
        Path, typer.Argument(help="Folder with study directories in it.", metavar="FOLDER")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write; FOLDER/index.html if omitted.")
    ] = None,
) -> None:
    """Write a page that lists the studies below a folder, to sort, search and compare them."""
    path = report_function("index")(folder, out or folder / "index.html", warn)
    print_line(f"index: {path}")


def archive(
    directory: StudyDirectory,
    to: Annotated[Path, typer.Option("--to", help="File to write.", metavar="STUDY.zip")],
) -> None:
    """Write a study into one file."""
    from qsearch.sharing.archive import archive_study

    archive_study(directory, to)
    print_line(f"wrote {to}")


def restore(
    file: Annotated[Path, typer.Argument(help="What archive wrote.", metavar="STUDY.zip")],
    to: Annotated[Path, typer.Option("--to", help="New or empty directory.", metavar="DIR")],
) -> None:
    """Unpack an archived study into a new directory, to read or continue it."""
    from qsearch.sharing.archive import restore_archive

    name = restore_archive(file, to)
    print_line(f"restored the study {name} to {to}")
    print_line(f"to continue: qsearch run {to / 'study.yaml'} --out {to}")
