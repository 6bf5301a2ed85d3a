"""A running study's events as progress bars and lines, with the time left of phase and study."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from qsearch._text import reason_of, warn, without_controls
from qsearch.monitoring.eta import duration_text, end_text, left_text, time_left
from qsearch.monitoring.events import PROGRESS, Event, event_line, read_events
from qsearch.monitoring.history import (
    CANDIDATES,
    FULL_PRECISION,
    MEASURING,
    SENSITIVITY,
    SET,
    TRAINING,
    History,
    replay,
)
from qsearch.monitoring.progress_file import done_of
from qsearch.spec.search_spec import SearchSpec

_UNCOUNTED = (MEASURING, FULL_PRECISION, SENSITIVITY)
_ESTIMATE_EVERY = 0.5  # Seconds; training steps may take milliseconds.


class _CountColumn(MofNCompleteColumn):
    """Shows how much of how much is done, and nothing where nothing is counted."""

    def render(self, task: Task) -> Text:
        counts = task.total is not None and not task.fields.get("whole")
        return super().render(task) if counts else Text("")


class _LeftColumn(ProgressColumn):
    """Shows how long it still takes, counting down between two estimates."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        end = task.fields["end"]
        if end is None:
            return Text("")
        return Text(
            f"{duration_text(max(end - time.time(), 0.0))} left", style="progress.remaining"
        )


class StudyProgress:
    """Shows the whole study and the phase that it is in as bars; use as a context manager.

    Args:
        console: Where to draw; bars are left out where it is not a terminal.
        search: The study's limits, from which its time is estimated; no estimate if omitted.
        log: The study's log, which tells of earlier sessions.
    """

    def __init__(
        self, console: Console, search: SearchSpec | None = None, log: Path | None = None
    ) -> None:
        self._console = console
        self._search = search
        self._history = replay(read_events(log), None) if log else History()
        self._before = self._history.spent()
        self._start = time.time()
        self._estimated = -float("inf")
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),  # So that a terminal of 80 characters has room.
            _CountColumn(),
            TimeElapsedColumn(),
            _LeftColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._current = self._add("starting", None)
        self._whole: TaskID | None = None
        self._phase = ""
        self._is_off = False

    def __enter__(self) -> StudyProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event; one that cannot be shown ends the display, and no study."""
        if self._is_off:
            return
        try:
            self._take(event)
        except Exception as error:
            self._is_off = True
            self._bars.stop()
            warn(f"progress is shown no longer, the study goes on: {reason_of(error)}")

    def _take(self, event: Event) -> None:
        fields = event.fields
        line = event_line(event)
        self._history.add(line)
        if event.kind in (SET, CANDIDATES):
            self._show(event, event.kind, 0, fields["total"], "")
        elif event.kind == "evaluated":
            note = f"{fields['average_bits']:.2f} bits, loss {fields['loss']:.4f}"
            self._bars.update(self._current, completed=self._done(fields), note=note)
        elif event.kind == "failed":
            self._bars.update(self._current, completed=self._done(fields))
        elif event.kind in PROGRESS:
            note = f"loss {fields['loss']:.3f}" if event.kind == TRAINING else ""
            self._show(event, event.kind, done_of(line), fields["total"], note)
        elif event.kind in _UNCOUNTED:
            self._show(event, event.kind, 0, None, "")
        self._say(event)
        self._estimate(event)

    def _done(self, fields: Mapping[str, Any]) -> float:
        """Return how many of the phase's evaluations have come, failures included."""
        phase = self._history.current
        counted = phase.done if phase and phase.kind in (SET, CANDIDATES) else None
        done: float = fields.get("done", 0) if counted is None else counted
        return done

    def _add(self, description: str, total: float | None, **fields: Any) -> TaskID:
        fields = {"note": "", "end": None, "whole": False, **fields}
        return self._bars.add_task(description, total=total, **fields)

    def _show(self, event: Event, phase: str, done: int, total: int | None, note: str) -> None:
        description = f"round {event.round}: {phase}"
        if description != self._phase:
            self._phase = description
            self._bars.remove_task(self._current)
            self._current = self._add(description, total, note=note)
            self._estimated = -float("inf")
            if not self._console.is_terminal:
                self._print(description)
        self._bars.update(self._current, completed=done, total=total, note=note)

    def _estimate(self, event: Event) -> None:
        """Estimate the ends of phase and study anew, unless that was done a moment ago."""
        now = time.time()
        is_brief = event.kind in PROGRESS and now - self._estimated < _ESTIMATE_EVERY
        if self._search is None or is_brief:
            return
        self._estimated = now
        spent = self._before + now - self._start
        left = time_left(self._search, self._history, now, spent)
        end = None if left.phase is None else now + left.phase
        self._bars.update(self._current, end=end)
        if self._whole is None:
            self._whole = self._add("study", None, whole=True)
        of = f"round {min(event.round, self._search.rounds)} of {self._search.rounds}"
        if left.study is None:
            self._bars.update(self._whole, end=None, total=None, note=of)
            return
        self._bars.update(
            self._whole,
            end=now + left.study,
            total=max(spent + left.study, 1e-9),
            completed=spent,
            note=f"{of}, until about {end_text(left.study, now)}",
        )
        if event.kind == "round finished" and left.study > 0:
            self._print(left_text(left.study, now))

    def _say(self, event: Event) -> None:
        text = _TEXTS.get(event.kind)
        if text:
            # A field that is missing is no reason to end a study.
            self._print(text(event.round, _Fields(event.fields)))

    def _print(self, text: str) -> None:
        # Reasons quote what others' code raised.
        self._console.print(without_controls(text), highlight=False, markup=False)


class _Fields(dict[str, Any]):
    """An event's figures; one that is missing reads as a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"

    def seconds(self, key: str = "seconds") -> str:
        found = self[key]
        return duration_text(found) if isinstance(found, int | float) else "?"


def _trial(fields: _Fields) -> str:
    return f"trial {fields['trial']}" if "trial" in fields else "an evaluation"


def _retrying(round: int, fields: _Fields) -> str:
    trials = fields.get("trials", ())
    return f"round {round}: trying again what failed: {len(trials)} evaluations"


def _storage_lost(round: int, fields: _Fields) -> str:
    most = f", {fields.seconds()} at most" if "seconds" in fields else ""
    return f"the database is lost: {fields['reason']}; waiting for it{most}"


def _finished(round: int, fields: _Fields) -> str:
    value = fields["hypervolume"]
    shown = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f"round {round}: hypervolume {shown}, next set {fields['next_set']} configurations"


_TEXTS: dict[str, Callable[[int, _Fields], str]] = {
    "trained": lambda r, f: f"round {r}: trained {f['steps']} steps in {f.seconds()}",
    "searching again": lambda r, f: f"round {r}: the database lacks some candidates",
    "searched": lambda r, f: f"round {r}: found {f['candidates']} candidates",
    "failed": lambda r, f: f"round {r}: {_trial(f)} failed: {f['reason']}",
    "full precision failed": lambda r, f: (
        f"round {r}: without quantization, the model could not be evaluated: {f['reason']}"
    ),
    "worker given up": lambda r, f: f"round {r}: a worker is given up: {f['reason']}",
    "retry": lambda r, f: (
        f"round {r}: {_trial(f)} failed at attempt {f['attempt']} and is tried again: {f['reason']}"
    ),
    "retrying": _retrying,
    "worker lost": lambda r, f: f"round {r}: a worker is lost: {f['reason']}",
    "waiting for workers": lambda r, f: f"round {r}: waiting for workers",
    "storage lost": _storage_lost,
    "storage back": lambda r, f: f"the database is back after {f.seconds()}",
    "state damaged": lambda r, f: (
        f"{f['file']} is damaged; in its place: {f['used'] or 'nothing, it is made anew if needed'}"
    ),
    "taken over": lambda r, f: f"taken over from one that died: {f['owner']}",
    "environment changed": lambda r, f: (
        f"changed since the last session: {'; '.join(map(str, f['changed']))}"
    ),
    "limits changed": lambda r, f: f"limits changed: {'; '.join(map(str, f['changed']))}",
    "round finished": _finished,
}
