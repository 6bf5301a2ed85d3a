"""How far a running study is, followed from its events in memory."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qsearch.errors import QsearchError
from qsearch.monitoring.events import (
    Event,
    EventKind,
    Observer,
    Phase,
    event_of_line,
    read_events,
)
from qsearch.monitoring.status_file import (
    MAX_SECONDS,
    PhaseStatus,
    SavedStatus,
    read_status,
    utc_time,
    write_status,
)
from qsearch.spec.search_spec import SearchSpec
from qsearch.storage.clock import read_seconds
from qsearch.storage.paths import CLOCK, LOG

_SAVED_EVERY = 1.0
"""Seconds between two writings of the status: training steps may take milliseconds."""


@dataclass
class RunningPhase:
    """What the study does now, as in :class:`PhaseStatus`; times are in seconds since the epoch.

    Args:
        first: How much was done when the counting began; a resumed training begins in the middle.
        counted_since: When that was.
        last: When ``done`` last rose.
    """

    name: str
    round: int
    since: float
    total: int | None = None
    done: int = 0
    first: int | None = None
    counted_since: float = 0.0
    last: float = 0.0

    def count(self, done: int, total: int | None, now: float) -> None:
        """Take in how much is done."""
        self.done, self.total, self.last = done, total, now
        if self.first is None:
            self.first, self.counted_since = done, now

    def status(self) -> PhaseStatus:
        """Return it as it is saved."""
        seconds, count = self.last - self.counted_since, self.done - (self.first or 0)
        counts = self.total is not None
        return PhaseStatus(
            name=self.name,
            round=self.round,
            done=self.done if counts else None,
            total=self.total,
            per_minute=60 * count / seconds if counts and count > 0 and seconds > 0 else None,
            since=utc_time(self.since),
        )


class StudyTracker:
    """Follows a session's events: phase, pace, counts and time left.

    It knows what earlier sessions left in the study's directory.
    """

    def __init__(
        self, directory: Path, search: SearchSpec, now: Callable[[], float] = time.time
    ) -> None:
        self.search, self._now, self._start = search, now, now()
        try:
            self._before = read_seconds(directory / CLOCK)
        except (OSError, QsearchError):
            self._before = 0.0
        self._completed: set[tuple[int, int]] = set()
        self._failed: dict[tuple[int, int], str] = {}
        self.rounds_finished = 0
        self._evaluations_finished = 0
        for line in read_events(directory / LOG):
            if event := event_of_line(line):
                self._count(event)
        saved = read_status(directory)
        self._finished_seconds = saved.finished_seconds if saved else self._before
        self.phase: RunningPhase | None = RunningPhase(
            Phase.STARTING, self.rounds_finished + 1, self._start
        )

    def __call__(self, event: Event) -> None:
        """Take in an event that happens now."""
        self._count(event)
        kind, fields, now, phase = event.kind, event.fields, self._now(), self.phase
        name = str(event.kind) if kind.is_progress else kind.phase
        if kind is EventKind.ROUND_FINISHED:
            self._finished_seconds = self.spent()
        elif kind.ends_session:
            self.phase = None
        elif name and (phase is None or not kind.is_progress or phase.name != name):
            self.phase = phase = RunningPhase(name, event.round, now)
        if phase is None:
            return
        if kind.is_progress:
            done = fields["step" if kind is EventKind.TRAINING else "done"]
            phase.count(done, fields["total"], now)
        elif kind in (EventKind.EVALUATING_THE_SET, EventKind.EVALUATING_CANDIDATES):
            phase.count(0, fields["total"], now)
        elif kind in (EventKind.EVALUATED, EventKind.FAILED):
            phase.count(phase.done + 1, phase.total, now)
        elif kind is EventKind.STORAGE_BACK:
            # The time without a database says nothing about the pace.
            phase.first, phase.counted_since = phase.done, now

    def spent(self) -> float:
        """Return the wall time of all sessions in seconds."""
        return self._before + max(self._now() - self._start, 0.0)

    def status(self) -> SavedStatus:
        """Return how far the study is."""
        return SavedStatus(
            time=utc_time(self._now()),
            phase=self.phase.status() if self.phase else None,
            completed=len(self._completed),
            failures=dict(Counter(self._failed.values()).most_common()),
            spent_seconds=self.spent(),
            finished_seconds=self._finished_seconds,
            seconds_left=self.seconds_left(),
        )

    def seconds_left(self) -> float | None:
        """Estimate how long the study takes yet; None before the end of its first round.

        The estimate is the mean wall time of the finished rounds, times the rounds that are left
        by ``search.rounds`` and ``search.stop.evaluations``; ``search.stop.hours`` bounds it.
        """
        finished, stop, spent = self.rounds_finished, self.search.stop, self.spent()
        if not finished:
            return None
        left = float(max(self.search.rounds - finished, 0))
        if stop.evaluations is not None:
            unused = max(stop.evaluations - self._evaluations_finished, 0)
            left = min(left, unused * finished / max(self._evaluations_finished, 1))
        mean = self._finished_seconds / finished
        running = min(spent - self._finished_seconds, mean)
        seconds = max(left * mean - running, 0.0)
        if stop.hours is not None:
            seconds = min(seconds, max(3600 * stop.hours - spent, 0.0))
        return seconds if seconds <= MAX_SECONDS else None

    def _count(self, event: Event) -> None:
        """Count results and rounds; what the database has lost is evaluated again."""
        kind, fields, trial = event.kind, event.fields, event.fields.get("trial")
        if kind is EventKind.EVALUATED and isinstance(trial, int):
            self._failed.pop((event.round, trial), None)
            self._completed.add((event.round, trial))
        elif kind is EventKind.FAILED and isinstance(trial, int):
            self._failed[event.round, trial] = str(fields.get("reason", "no reason given"))
        elif kind is EventKind.RETRYING:
            trials = fields.get("trials")
            for retried in trials if isinstance(trials, list | tuple) else ():
                if isinstance(retried, int):
                    self._failed.pop((event.round, retried), None)
        elif kind is EventKind.ROUND_FINISHED:
            self.rounds_finished = max(event.round, self.rounds_finished)
            self._evaluations_finished = len(self._completed) + len(self._failed)


def status_keeper(
    directory: Path, search: SearchSpec, now: Callable[[], float] = time.time
) -> Observer:
    """Return an observer that keeps ``state/status.json``, from now on.

    It writes at each change of phase, and once a second at most otherwise. A file that cannot be
    written is left as it is: a status is not worth a study.
    """
    tracker = StudyTracker(directory, search, now)
    written = -float("inf")

    def save() -> None:
        nonlocal written
        written = now()
        with contextlib.suppress(OSError, ValueError):
            write_status(directory, tracker.status())

    def observe(event: Event) -> None:
        phase = tracker.phase
        tracker(event)
        if tracker.phase is not phase or abs(now() - written) >= _SAVED_EVERY:
            save()

    save()
    return observe
