"""The command ``report``: a page, or a summary as text or Markdown."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qsearch.cli.console import print_line, report_function


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
        print_line(f"report: {report_function('page')(directories, target)}")
        return
    text = report_function(format_.value)(directories)
    if out is None:
        print_line(text.removesuffix("\n"))
        return
    from qsearch.storage.files import write_output

    print_line(f"report: {write_output(out, text)}")
