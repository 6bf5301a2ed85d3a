"""What the commands print, and how; starts fast, since every command imports it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def quieten_ax() -> None:
    """Keep Ax from reporting on standard error, which it starts to do while it is imported."""
    logging.disable(logging.INFO)
    from ax.utils.common.logger import set_stderr_log_level

    logging.disable(logging.NOTSET)
    set_stderr_log_level(logging.ERROR)


def report_function(name: str) -> Any:
    """Return a function of the reports' package, ``page`` or ``summary``."""
    from qsearch.plugins import load_plugin

    return load_plugin("reports", name)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of which no cell is cut: names that are cut may all look alike.

    On a terminal that is too narrow, headings break at underscores, then cells anywhere. What is
    no terminal gets each row on a line.
    """
    console = Console()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    width = console.measure(table, options=console.options.update(max_width=10**6)).maximum
    if not console.is_terminal:
        console.width = width
    elif console.width < width:
        for column in table.columns:
            column.header = Text(str(column.header).replace("_", "_\n"))
    console.print(table, highlight=False, markup=False)


def print_line(text: str) -> None:
    """Print a line of text."""
    typer.echo(text)


def fail(message: str, code: int) -> int:
    """Print a message for the user to standard error; return the exit code."""
    print(f"qsearch: {message}", file=sys.stderr)
    return code
