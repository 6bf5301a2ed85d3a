"""What a study has done and how long that took, from the events that it told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from qsearch.monitoring.events import PROGRESS
from qsearch.monitoring.progress_file import done_of

SET = "evaluating the set"
CANDIDATES = "evaluating candidates"
TRAINING = "training"
FULL_PRECISION = "measuring full precision"
SENSITIVITY = "measuring sensitivity"
SEARCHING = "searching"
FINISHING = "finishing the round"
MEASURING = "measuring quantization error"
STARTING = "starting"
BETWEEN = "going on"

_AFTER = {SET: SEARCHING, CANDIDATES: FINISHING}
_ENDS = {
    "trained": TRAINING,
    "measured full precision": FULL_PRECISION,
    "measured sensitivity": SENSITIVITY,
    "searched": SEARCHING,
}
_OPENING = ("state damaged", "taken over", "environment changed", MEASURING, "started")
"""How a session begins, in this order; a session that comes to "started" has begun."""
_OVER = ("finished", "stopped", "interrupted")


@dataclass
class Phase:
    """A stretch of one session that a study spent on one thing.

    Args:
        kind: What it did.
        round: The round.
        start: When it began, in seconds since the epoch, as all times here.
        label: What to call it: a part of the phase, such as screening, goes by its own name.
        total: How much there was to do: steps, evaluations or candidates, if that was told.
        done: How much of it is known to be done.
        first: How much was done when the counting began.
        since: When the counting began.
        last: When ``done`` last rose.
        lost: Seconds since then without a database, in which nothing could be done.
        end: When it ended, if it did.
        complete: Whether it came to its end, rather than was cut off.
        seconds: How long it took, by its own account.
    """

    kind: str
    round: int
    start: float
    label: str = ""
    total: int | None = None
    done: int = 0
    first: int = 0
    since: float = 0.0
    last: float = 0.0
    lost: float = 0.0
    end: float | None = None
    complete: bool = False
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.label = self.label or self.kind
        self.since = self.since or self.start
        self.last = self.last or self.start

    @property
    def pace(self) -> float | None:
        """Seconds from one completion to the next, however many run at once; None if unknown."""
        if self.done <= self.first:
            return None
        return max(self.last - self.since - self.lost, 0.0) / (self.done - self.first)

    @property
    def duration(self) -> float:
        """Wall time in seconds, once it has ended; of all sessions, where it gives account."""
        return max((self.end or self.last) - self.start - self.lost, self.seconds, 0.0)


@dataclass
class Session:
    """A time in which the study ran without a break.

    Args:
        start: When it began.
        last: When it last told of something.
    """

    start: float
    last: float


@dataclass
class History:
    """What a study has told, event by event; feed it with :meth:`add`.

    Args:
        phases: Its phases, in order.
        sessions: Its sessions, in order.
        current: The phase it is in, unless it has told that it ended.
        round: The round it is in.
        members: Size of each round's training set, as far as known.
        completed: Trials that each round has evaluated.
        failed: Reasons of failures by round and trial.
    """

    phases: list[Phase] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    current: Phase | None = None
    round: int = 1
    members: dict[int, int] = field(default_factory=dict)
    completed: dict[int, set[int]] = field(default_factory=dict)
    failed: dict[tuple[int, int], str] = field(default_factory=dict)
    _opened: int = field(default=len(_OPENING) - 1, repr=False)

    def results(self, round: int) -> int:
        """Return how many evaluations a round has made, failures included."""
        lost = sum(1 for failed_round, _ in self.failed if failed_round == round)
        return len(self.completed.get(round, ())) + lost

    @property
    def reasons(self) -> Counter[str]:
        """How often evaluations failed, by reason."""
        return Counter(self.failed.values())

    def spent(self, now: float | None = None) -> float:
        """Return the wall time of all sessions in seconds; breaks between them do not count.

        Args:
            now: The time, if the last session still runs.
        """
        times = [session.last - session.start for session in self.sessions]
        if times and now is not None:
            times[-1] = now - self.sessions[-1].start
        return sum(max(seconds, 0.0) for seconds in times)

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in one event, as a line of the log or of the file of progress."""
        kind, round, time = str(line.get("event")), line.get("round"), _seconds(line.get("time"))
        if time is None or not isinstance(round, int):
            return
        self._follow_session(kind, time)
        self.round = round
        if kind in (MEASURING, FULL_PRECISION, SENSITIVITY, SET, CANDIDATES):
            self._begin(kind, round, time, _count(line.get("total")))
        elif kind in ("environment changed", "started"):
            self._begin(STARTING, round, time)
        elif kind == "round started":
            self.members[round] = _count(line.get("training_set")) or 0
            self._begin(TRAINING, round, time)
        elif kind in PROGRESS:
            self._progress(kind, round, time, line)
        elif kind in _ENDS:
            self._complete(_ENDS[kind], time, line)
            self._begin(BETWEEN, round, time)
        elif kind in ("evaluated", "failed"):
            self._result(kind, round, time, line)
        elif kind == "retrying":
            trials = line.get("trials")
            for trial in map(_count, trials if isinstance(trials, list | tuple) else ()):
                self.failed.pop((round, -1 if trial is None else trial), None)
        elif kind == "storage back" and self.current:
            self.current.lost += _number(line.get("seconds"))
        elif kind == "round finished":
            self.members[round + 1] = _count(line.get("next_set")) or 0
            self._complete(FINISHING, time, line)
            self._begin(BETWEEN, round, time)
        elif kind in _OVER:
            self._close(time)
            self.current = None
        self._skip_empty()

    def _follow_session(self, kind: str, time: float) -> None:
        """Tell a session's first event from a later one: breaks are nobody's work."""
        position = _OPENING.index(kind) if kind in _OPENING else None
        if self.current is None or (position is not None and position <= self._opened):
            self._close(self.sessions[-1].last if self.sessions else time)
            self.current = None
            self.sessions.append(Session(time, time))
        if position is not None:
            self._opened = position
        self.sessions[-1].last = max(time, self.sessions[-1].last)

    def _begin(self, kind: str, round: int, time: float, total: int | None = None) -> None:
        self._close(time)
        self.current = Phase(kind, round, time, total=total)
        self.phases.append(self.current)

    def _close(self, time: float) -> None:
        if self.current and self.current.end is None:
            self.current.end = time

    def _complete(self, kind: str, time: float, line: Mapping[str, Any]) -> None:
        if self.current is None or self.current.kind != kind:
            return
        self.current.complete, self.current.end = True, time
        if kind == TRAINING:
            self.current.seconds = _number(line.get("seconds"))
        elif kind == SEARCHING:
            self.current.total = _count(line.get("candidates"))

    def _progress(self, kind: str, round: int, time: float, line: Mapping[str, Any]) -> None:
        phase = TRAINING if kind == "training configurations" else kind
        if self.current is None or self.current.kind != phase:
            self._begin(phase, round, time)
        current, done = self.current, done_of(dict(line))
        assert current is not None
        if current.label != kind or current.total is None:
            since = _seconds(line.get("since"))
            current.label, current.lost = kind, 0.0
            current.since = time if since is None else since
            first = _count(line.get("first"))
            current.first = done if first is None else first
        current.done, current.last, current.total = done, time, _count(line.get("total"))

    def _result(self, kind: str, round: int, time: float, line: Mapping[str, Any]) -> None:
        trial = _count(line.get("trial"))
        if trial is None:
            return
        # In a log of thousands, counting the results before and after would take minutes.
        is_new = (round, trial) not in self.failed
        if kind == "failed":
            self.failed[round, trial] = str(line.get("reason", "no reason given"))
        else:
            self.failed.pop((round, trial), None)
            completed = self.completed.setdefault(round, set())
            is_new = is_new and trial not in completed
            completed.add(trial)
        current = self.current
        if current and current.kind in _AFTER and is_new:
            current.done, current.last = current.done + 1, time

    def _skip_empty(self) -> None:
        """Go on to what follows once all evaluations of a phase have come."""
        phase = self.current
        if phase and phase.kind in _AFTER and phase.total is not None:
            if phase.done < phase.total:
                return
            phase.complete = True
            self._begin(_AFTER[phase.kind], phase.round, phase.last)


def replay(lines: Iterable[Mapping[str, Any]], progress: Mapping[str, Any] | None) -> History:
    """Return the history that a log tells.

    Args:
        lines: The log.
        progress: What the file of progress holds; older progress than the log's end is that of a
            phase that is over, or adds nothing.
    """
    history = History()
    for line in lines:
        history.add(line)
    current, time = history.current, _seconds((progress or {}).get("time"))
    if not progress or current is None or time is None:
        return history
    if time > current.start and progress.get("round") == current.round:
        history.add(progress)
    return history


def _seconds(text: object) -> float | None:
    """Return a time in seconds since the epoch; None if it is none that can be written again."""
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _number(value: object) -> float:
    """Return a number; 0 for what is none that a time in seconds could be."""
    return float(value) if isinstance(value, int | float) and abs(value) < 2**53 else 0.0


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
