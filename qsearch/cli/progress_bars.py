"""A running study as two bars, its phase and the whole study, and as lines."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from qsearch._text import reason_of, warn
from qsearch.cli.event_lines import event_text
from qsearch.monitoring.durations import left_text
from qsearch.monitoring.events import Event, EventKind, guarded
from qsearch.monitoring.tracker import RunningPhase, StudyTracker


class _CountColumn(MofNCompleteColumn):
    """Shows how much of how much is done, where something is counted."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class _PhaseLeftColumn(TimeRemainingColumn):
    """Shows the time left of a phase by its pace; that of the study is text next to its bar."""

    def render(self, task: Task) -> Text:
        is_unknown = task.total is None or task.fields["is_study"]
        return Text("") if is_unknown else super().render(task)


class StudyProgress:
    """Shows a study while it runs; an observer, and a context manager.

    Bars are left out where the console is not a terminal; each phase is a line instead.
    """

    def __init__(self, console: Console, tracker: StudyTracker) -> None:
        self._console, self._tracker = console, tracker
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),  # So that a terminal of 80 characters has room.
            _CountColumn(),
            TimeElapsedColumn(),
            _PhaseLeftColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._phase: RunningPhase | None = None
        self._bar = self._add("starting", None)
        rounds = tracker.search.rounds
        self._study = self._add("study", rounds, is_study=True, completed=tracker.rounds_finished)
        self._observe = guarded(self._show, self._end)

    def __enter__(self) -> StudyProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event; one that cannot be shown ends the display, and no study."""
        self._observe(event)

    def _end(self, error: Exception) -> None:
        self._bars.stop()
        warn(f"progress is not shown any more, the study continues: {reason_of(error)}")

    def _add(
        self, description: str, total: int | None, is_study: bool = False, completed: int = 0
    ) -> TaskID:
        return self._bars.add_task(
            description, total=total, completed=completed, note="", is_study=is_study
        )

    def _show(self, event: Event) -> None:
        self._tracker(event)
        phase = self._tracker.phase
        if phase is not self._phase:
            self._show_new(phase)
        if phase is not None:
            self._bars.update(self._bar, completed=phase.done, total=phase.total, note=_note(event))
        if text := event_text(event):
            self._console.print(text)
        if event.kind is EventKind.ROUND_FINISHED:
            self._show_left()

    def _show_new(self, phase: RunningPhase | None) -> None:
        self._phase = phase
        self._bars.remove_task(self._bar)
        self._bar = self._add(f"round {phase.round}: {phase.name}" if phase else "ending", None)
        if phase and not self._console.is_terminal:
            self._console.print(f"round {phase.round}: {phase.name}")

    def _show_left(self) -> None:
        left = self._tracker.seconds_left()
        text = left_text(left, time.time()) if left else ""
        self._bars.update(self._study, completed=self._tracker.rounds_finished, note=text)
        if text and not self._console.is_terminal:
            self._console.print(text)


def _note(event: Event) -> str:
    if event.kind is EventKind.EVALUATED:
        return f"{event.fields['average_bits']:.2f} bits, loss {event.fields['loss']:.4f}"
    return f"loss {event.fields['loss']:.3f}" if event.kind is EventKind.TRAINING else ""
