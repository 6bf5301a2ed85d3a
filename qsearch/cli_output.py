"""What the commands print, and how; starts fast, since every command imports it."""

from __future__ import annotations

import logging
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_OBEYED = ("Cc", "Cf", "Cs")
"""Unicode's categories of control and formatting characters, and of halves of characters."""


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
        table.add_row(*(Text(without_controls(cell)) for cell in row))
    width = console.measure(table, options=console.options.update(max_width=10**6)).maximum
    if not console.is_terminal:
        console.width = width
    elif console.width < width:
        for column in table.columns:
            column.header = Text(str(column.header).replace("_", "_\n"))
    console.print(table, highlight=False, markup=False)


def print_line(text: str) -> None:
    """Print text, whose line ends are meant."""
    typer.echo("\n".join(map(without_controls, text.split("\n"))))


def without_controls(text: str) -> str:
    """Return text with escapes for what a terminal would obey and not show.

    Names come from files of others, and could clear the screen or write what was never said.
    """
    return "".join(
        character
        if unicodedata.category(character) not in _OBEYED
        else character.encode("unicode_escape").decode()
        for character in text
    )


def warn(message: str) -> None:
    """Print a message for the user to standard error, in one line."""
    print(f"qsearch: {without_controls(' '.join(message.split()))}", file=sys.stderr)


def fail(message: str, code: int) -> int:
    """Print a message for the user to standard error, in one line; return the exit code."""
    warn(message)
    return code
