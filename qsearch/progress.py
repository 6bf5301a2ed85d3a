"""A running study's events as progress bars with the time left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from qsearch.events import Event

_PHASES = ("evaluating the set", "evaluating candidates")
_STEPS = ("searching", "screening")


class _CountColumn(MofNCompleteColumn):
    """Shows how much of how much is done, and nothing for a phase that does not count."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class StudyProgress:
    """Shows each phase of each round as one bar; use as a context manager.

    Args:
        console: Where to draw; bars are left out where it is not a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            _CountColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._current = self._bars.add_task("starting", total=None, note="")
        self._phase = ""

    def __enter__(self) -> StudyProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        fields = event.fields
        if event.kind == "training":
            self._show(
                event, "training", fields["step"], fields["total"], f"loss {fields['loss']:.3f}"
            )
        elif event.kind in _PHASES:
            self._show(event, event.kind, 0, fields["total"], "")
        elif event.kind == "evaluated":
            note = f"{fields['average_bits']:.2f} bits, loss {fields['loss']:.4f}"
            self._bars.update(self._current, completed=fields["done"], note=note)
        elif event.kind in _STEPS:
            self._show(event, event.kind, fields["done"], fields["total"], "")
        elif event.kind == "measuring quantization error":
            self._show(event, event.kind, 0, None, "")
        self._say(event)

    def _show(self, event: Event, phase: str, done: int, total: int | None, note: str) -> None:
        description = f"round {event.round}: {phase}"
        if description != self._phase:
            self._phase = description
            self._bars.remove_task(self._current)
            self._current = self._bars.add_task(description, total=total, note=note)
            if not self._console.is_terminal:
                self._console.print(description, highlight=False, markup=False)
        self._bars.update(self._current, completed=done, total=total, note=note)

    def _say(self, event: Event) -> None:
        fields = event.fields
        text = {
            "trained": "round {round}: trained {steps} steps in {seconds:.0f} s",
            "searched": "round {round}: found {candidates} candidates",
            "failed": "round {round}: trial {trial} failed: {reason}",
            "screening failed": "round {round}: trial {trial} was not screened: {reason}",
            "round finished": "round {round}: hypervolume {hypervolume:.4f},"
            " next set {next_set} configurations",
        }.get(event.kind)
        if text:
            self._console.print(
                text.format(round=event.round, **fields), highlight=False, markup=False
            )
