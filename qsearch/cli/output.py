"""What the commands print, and how; starts fast, since every command imports it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qsearch._text import warn, without_controls


def quieten_ax() -> None:
    """Keep Ax from reporting on standard error, which it starts to do while it is imported."""
    logging.disable(logging.INFO)
    from ax.utils.common.logger import set_stderr_log_level

    logging.disable(logging.NOTSET)
    set_stderr_log_level(logging.ERROR)


def report_function(name: str) -> Any:
    """Return a function of the reports' package, ``page`` or ``summary``."""
    from qsearch.plugins.registry import load_plugin

    return load_plugin("reports", name)


def write_any_character() -> None:
    """Have output write escapes for characters that its encoding lacks, as errors do already."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Let what is printed inside get lost, rather than fail, once nobody can take it any more.

    A terminal that is closed, a reader that has seen enough and a full disk shall end no study.
    """
    with contextlib.ExitStack() as stack:
        if sys.stderr:  # None where the shell closed it.
            errors = cast(TextIO, _Lasting(sys.stderr, "standard error"))
            stack.enter_context(contextlib.redirect_stderr(errors))
        if sys.stdout:
            output = cast(TextIO, _Lasting(sys.stdout, "standard output"))
            stack.enter_context(contextlib.redirect_stdout(output))
        yield


class _Lasting:
    """A text stream that swallows everything from when it first cannot be written."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._is_lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: somebody has closed it.
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        # What the stream still holds would fail again at exit; others write to the same file.
        with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
        reason = getattr(error, "strerror", None) or error
        warn(f"{self._name} cannot be written, the study goes on without it: {reason}")


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
    print("\n".join(map(without_controls, text.split("\n"))), flush=True)


def fail(message: str, code: int) -> int:
    """Print a message for the user to standard error, in one line; return the exit code."""
    warn(message)
    return code
