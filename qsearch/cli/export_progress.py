"""An export as a bar, or as a line for each phase where output is not a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from qsearch.cli.console import SafeConsole

if TYPE_CHECKING:
    from qsearch.deployment.exporting import ExportProgress


@contextmanager
def export_progress(console: SafeConsole) -> Iterator[ExportProgress]:
    """Give what shows an export's phase, and how many of its layers are done."""
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    bar = bars.add_task("")
    last = ""

    def show(phase: str, done: int = 0, layers: int = 0) -> None:
        nonlocal last
        bars.update(bar, description=f"{phase}: layer {done} of {layers}" if layers else phase)
        if phase != last and not console.is_terminal:
            console.print(phase)
        last = phase

    with bars:
        yield show
