"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StudyFile = Annotated[Path, typer.Argument(help="A study YAML.", metavar="STUDY.yaml")]
StudyDirectory = Annotated[Path, typer.Argument(help="A study's directory.", metavar="DIR")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: section.field=value.", metavar="FIELD=VALUE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StorageUrl = Annotated[
    str | None, typer.Option("--storage", help="Database URL; a file in DIR if omitted.")
]
