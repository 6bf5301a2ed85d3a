"""Events of a running study, and its log of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from qsearch.storage.bounded_reading import MAX_LOG, read_last_lines
from qsearch.storage.files import no_links

_MAX_LINE = 2**20
"""Bytes of the log that are read for its last event."""


class Phase(StrEnum):
    """What a running study spends its time on."""

    STARTING = "starting"
    QUANTIZATION_ERROR = "measuring quantization error"
    TRAINING = "training"
    REFERENCE = "measuring the reference"
    FULL_PRECISION = "measuring full precision"
    SENSITIVITY = "measuring sensitivity"
    SET = "evaluating the set"
    SEARCHING = "searching"
    CANDIDATES = "evaluating candidates"
    FINISHING = "finishing the round"


class EventKind(StrEnum):
    """What happened: the word that the log and loggers have for it."""

    STARTED = "started"
    FINISHED = "finished"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    TAKEN_OVER = "taken over"
    ENVIRONMENT_CHANGED = "environment changed"
    LIMITS_CHANGED = "limits changed"
    NOTED = "noted"
    MEASURING_QUANTIZATION_ERROR = "measuring quantization error"
    MEASURED_QUANTIZATION_ERROR = "measured quantization error"
    ROUND_STARTED = "round started"
    TRAINING = "training"
    TRAINING_CONFIGURATIONS = "training configurations"
    TRAINED = "trained"
    MEASURING_REFERENCE = "measuring the reference"
    MEASURED_REFERENCE = "measured the reference"
    REFERENCE_FAILED = "reference failed"
    MEASURING_FULL_PRECISION = "measuring full precision"
    MEASURED_FULL_PRECISION = "measured full precision"
    FULL_PRECISION_FAILED = "full precision failed"
    MEASURING_SENSITIVITY = "measuring sensitivity"
    MEASURED_SENSITIVITY = "measured sensitivity"
    EVALUATING_THE_SET = "evaluating the set"
    EVALUATED = "evaluated"
    FAILED = "failed"
    RETRY = "retry"
    RETRYING = "retrying"
    SEARCHING = "searching"
    SEARCHING_AGAIN = "searching again"
    SEARCHED = "searched"
    EVALUATING_CANDIDATES = "evaluating candidates"
    FINISHING_ROUND = "finishing the round"
    ROUND_FINISHED = "round finished"
    STORAGE_LOST = "storage lost"
    STORAGE_BACK = "storage back"
    WAITING_FOR_WORKERS = "waiting for workers"
    WORKER_LOST = "worker lost"
    WORKER_GIVEN_UP = "worker given up"

    @property
    def phase(self) -> Phase | None:
        """The phase that such an event begins, or is progress of."""
        return _PHASES.get(self)

    @property
    def is_progress(self) -> bool:
        """Whether it says how far a phase is: worth a progress bar, not a line of the log."""
        return self in _PROGRESS

    @property
    def ends_session(self) -> bool:
        """Whether the study does nothing after it."""
        return self in (EventKind.FINISHED, EventKind.STOPPED, EventKind.INTERRUPTED)


_PHASES = {
    EventKind.STARTED: Phase.STARTING,
    EventKind.MEASURING_QUANTIZATION_ERROR: Phase.QUANTIZATION_ERROR,
    EventKind.ROUND_STARTED: Phase.TRAINING,
    EventKind.TRAINING: Phase.TRAINING,
    EventKind.TRAINING_CONFIGURATIONS: Phase.TRAINING,
    EventKind.MEASURING_REFERENCE: Phase.REFERENCE,
    EventKind.MEASURING_FULL_PRECISION: Phase.FULL_PRECISION,
    EventKind.MEASURING_SENSITIVITY: Phase.SENSITIVITY,
    EventKind.EVALUATING_THE_SET: Phase.SET,
    EventKind.SEARCHING: Phase.SEARCHING,
    EventKind.EVALUATING_CANDIDATES: Phase.CANDIDATES,
    EventKind.FINISHING_ROUND: Phase.FINISHING,
}
_PROGRESS = (EventKind.TRAINING, EventKind.TRAINING_CONFIGURATIONS, EventKind.SEARCHING)


@dataclass(frozen=True)
class Event:
    """Something that happened in a round of a study, with JSON values."""

    kind: EventKind
    round: int
    fields: dict[str, Any] = field(default_factory=dict)


Observer = Callable[[Event], None]


class Emit(Protocol):
    """Sends an event, by default of the current round."""

    def __call__(self, kind: EventKind, round: int | None = None, **fields: Any) -> None: ...


def event_line(event: Event) -> dict[str, Any]:
    """Return an event, and the time now, as the JSON values that a line of the log holds."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    fixed = {"time": time, "event": event.kind, "round": event.round}
    # Fixed keys come first, and fields of plugins' own naming do not replace them.
    line: dict[str, Any] = finite(fixed | event.fields | fixed)
    return line


def event_of_line(line: Mapping[str, Any]) -> Event | None:
    """Return the event that a line of the log holds; None if the line is not of a study."""
    kind, round = str(line.get("event")), line.get("round")
    if kind not in EventKind.__members__.values() or not isinstance(round, int):
        return None
    return Event(EventKind(kind), round, dict(line)) if abs(round) < 2**53 else None


def event_log(path: Path) -> Observer:
    """Return an observer that appends events to a file, each as one line of JSON.

    Of progress within a phase, only the beginning of the phase is logged.
    The observer raises :class:`InputError` if the file is a link, or not a regular file.
    """
    phase: tuple[Phase, int] | None = None

    def observe(event: Event) -> None:
        nonlocal phase
        known = phase
        if event.kind.phase:
            phase = event.kind.phase, event.round
        if event.kind.is_progress and phase == known:
            return
        text = json.dumps(event_line(event), allow_nan=False)
        with open(path, "a+b", opener=no_links) as stream:
            # A killed process, or a full disk, may have left half a line.
            stream.seek(max(stream.tell() - 1, 0))
            before = b"" if stream.read(1) in (b"", b"\n") else b"\n"
            stream.write(before + text.encode() + b"\n")

    return observe


def all_of(observers: Sequence[Observer]) -> Observer:
    """Return an observer that passes events on to several, in order."""

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe


def guarded(observe: Observer, failed: Callable[[Exception], None]) -> Observer:
    """Return an observer that is dropped at its first exception, which ``failed`` gets."""
    is_dropped = False

    def guard(event: Event) -> None:
        nonlocal is_dropped
        if is_dropped:
            return
        try:
            observe(event)
        except Exception as error:
            is_dropped = True
            failed(error)

    return guard


def finite(value: Any) -> Any:
    """Return JSON values with null for each number that JSON cannot write."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_events(path: Path, max_bytes: int = MAX_LOG) -> list[dict[str, Any]]:
    """Return the whole lines at the end of an event log; none if there is no log."""
    if not path.is_file():
        return []
    lines = map(_whole, read_last_lines(path, max_bytes))
    return [line for line in lines if line is not None]


def last_event(path: Path) -> dict[str, Any] | None:
    """Return the last whole line of an event log, or None."""
    lines = read_events(path, _MAX_LINE)
    return lines[-1] if lines else None


def _whole(text: str) -> dict[str, Any] | None:
    """Return a line of a log as JSON values; None for the half line of a killed process."""
    try:
        loaded = json.loads(text)
    except (RecursionError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None
