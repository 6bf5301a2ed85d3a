"""The command ``report``: a page, or a summary as text or Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qsearch.cli.console import print_line, report_function
from qsearch.errors import InputError


class Format(StrEnum):
    """What a report is written as."""

    HTML = "html"
    TEXT = "text"
    MARKDOWN = "markdown"


def report(
    directories: Annotated[list[Path], typer.Argument(help="Study directories.", metavar="DIR...")],
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            help="html (the page), text (for a terminal) or markdown (for a pull request).",
        ),
    ] = Format.HTML,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; if omitted, html of one study goes to DIR/report.html, of several"
            " to compare.html in the current directory, text and markdown to standard output."
        ),
    ] = None,
) -> None:
    """Write the interactive report of one study, or of several side by side, or a summary."""
    if format_ is Format.HTML:
        one = directories[0] / "report.html" if len(directories) == 1 else Path("compare.html")
        target = out or one
        with _writing(target):
            path = report_function("page")(directories, target)
        print_line(f"report: {path}")
        return
    text = report_function(format_.value)(directories)
    if out is None:
        print_line(text.removesuffix("\n"))
        return
    from qsearch.storage.files import write_atomically

    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        # A directory's name may hold what is no text; it is shown as far as it is.
        content = text.encode("utf-8", "replace")
        write_atomically(out, lambda path: path.write_bytes(content))
    print_line(f"report: {out}")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
