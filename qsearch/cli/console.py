"""What the commands print, and how; starts fast, since every command imports it."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from qsearch._text import warn, without_controls


class SafeConsole(Console):
    """A console on which nothing that is printed can steer the terminal, whoever prints it.

    Names come from files of others: characters that a terminal would obey are shown as escapes.
    Square brackets are text, not markup.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return plain text to render; escapes are made before widths are measured."""
        return super().render_str(_shown(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield what is written, of rich's own text objects too."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_shown(segment.text))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of which no cell is cut: names that are cut may all look alike.

    On a terminal that is too narrow, headings break at underscores, then cells anywhere. Where
    output is not a terminal, each row is a line.
    """
    console = SafeConsole()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = console.measure(table, options=console.options.update(max_width=10**6)).maximum
    if not console.is_terminal:
        console.width = width
    elif console.width < width:
        for column in table.columns:
            column.header = str(column.header).replace("_", "_\n")
    console.print(table)


def label_table(lines: Iterable[tuple[str, str]]) -> Table:
    """Return labels and texts as a table to print."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for label, text in lines:
        table.add_row(label, text)
    return table


def print_line(text: str) -> None:
    """Print text, whose line ends are meant; lines are not wrapped."""
    print(_shown(text), flush=True)


def fail(message: str, code: int) -> int:
    """Print a message for the user to standard error, in one line; return the exit code."""
    warn(message)
    return code


def _shown(text: str) -> str:
    return "\n".join(map(without_controls, text.split("\n")))


def write_any_character() -> None:
    """Have output write escapes for characters that its encoding lacks, as errors do already."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def quieten_ax() -> None:
    """Keep Ax from reporting on standard error, which it starts to do while it is imported."""
    logging.disable(logging.INFO)
    from ax.utils.common.logger import set_stderr_log_level

    logging.disable(logging.NOTSET)
    set_stderr_log_level(logging.ERROR)


def report_function(name: str) -> Any:
    """Return a function of the reports' package, such as ``page`` or ``summary``."""
    from qsearch.plugins.registry import load_plugin

    return load_plugin("reports", name)
