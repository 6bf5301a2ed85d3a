"""When a study ran, and what it did then, from its log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from qsearch.monitoring.events import EventKind, Phase, event_of_line

_OPENING = (
    EventKind.TAKEN_OVER,
    EventKind.NOTED,
    EventKind.ENVIRONMENT_CHANGED,
    EventKind.MEASURING_QUANTIZATION_ERROR,
    EventKind.STARTED,
)
"""How a session begins, in this order; after "started", it has begun."""

_COMPLETING = (
    EventKind.MEASURED_QUANTIZATION_ERROR,
    EventKind.TRAINED,
    EventKind.MEASURED_REFERENCE,
    EventKind.REFERENCE_FAILED,
    EventKind.MEASURED_FULL_PRECISION,
    EventKind.FULL_PRECISION_FAILED,
    EventKind.MEASURED_SENSITIVITY,
    EventKind.SEARCHED,
    EventKind.ROUND_FINISHED,
)
"""After what a phase has done its work."""


@dataclass
class PhaseSpan:
    """A time that a study spent on one thing; times are in seconds since the epoch.

    Args:
        end: None while the study is in it.
        complete: Whether its work was done, instead of being stopped.
    """

    phase: Phase
    round: int
    start: float
    end: float | None = None
    complete: bool = False


@dataclass
class Session:
    """A time in which the study ran without a break, from its first event to its last."""

    start: float
    last: float


@dataclass
class History:
    """Sessions and phases of a study, in order; feed it with :meth:`add`."""

    phases: list[PhaseSpan] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    _is_running: bool = False
    _opened: int = len(_OPENING) - 1

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in a line of the log; lines that are not events of a study are passed over."""
        event, time = event_of_line(line), _seconds(line.get("time"))
        if event is None or time is None:
            return
        kind = event.kind
        self._follow_session(kind, event.round, time)
        span = self.phases[-1]
        if kind.phase and (kind.phase != span.phase or not kind.is_progress):
            span.complete = True
            self._begin(kind.phase, event.round, time)
        elif kind in _COMPLETING:
            span.complete = True
        elif kind.ends_session:
            span.end, self._is_running = time, False

    def _follow_session(self, kind: EventKind, round: int, time: float) -> None:
        """Begin a session where one begins: the time between two sessions counts as nothing."""
        position = _OPENING.index(kind) if kind in _OPENING else None
        if not self._is_running or (position is not None and position <= self._opened):
            if self._is_running:  # It was killed.
                self.phases[-1].end = self.sessions[-1].last
            self.sessions.append(Session(time, time))
            self.phases.append(PhaseSpan(Phase.STARTING, round, time))
            self._is_running = True
        if position is not None:
            self._opened = position
        self.sessions[-1].last = max(time, self.sessions[-1].last)

    def _begin(self, phase: Phase, round: int, time: float) -> None:
        self.phases[-1].end = time
        self.phases.append(PhaseSpan(phase, round, time))


def _seconds(text: object) -> float | None:
    """Return a time in seconds since the epoch; None if it cannot be written as a time again."""
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
