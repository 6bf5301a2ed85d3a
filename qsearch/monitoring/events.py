"""What a running study tells: events for the log and for whoever watches."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Protocol

from qsearch.storage.bounded_reading import MAX_LOG, read_last_lines
from qsearch.storage.files import no_links


class EventKind(StrEnum):
    """What happened: the word that the log and loggers have for it."""

    STARTED = "started"
    FINISHED = "finished"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    STATE_DAMAGED = "state damaged"
    TAKEN_OVER = "taken over"
    ENVIRONMENT_CHANGED = "environment changed"
    LIMITS_CHANGED = "limits changed"
    MEASURING_QUANTIZATION_ERROR = "measuring quantization error"
    MEASURED_QUANTIZATION_ERROR = "measured quantization error"
    ROUND_STARTED = "round started"
    TRAINING = "training"
    TRAINING_CONFIGURATIONS = "training configurations"
    TRAINED = "trained"
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
    ROUND_FINISHED = "round finished"
    STORAGE_LOST = "storage lost"
    STORAGE_BACK = "storage back"
    WAITING_FOR_WORKERS = "waiting for workers"
    WORKER_LOST = "worker lost"
    WORKER_GIVEN_UP = "worker given up"


@dataclass(frozen=True)
class Event:
    """Something that happened in a study.

    Args:
        round: The round it happened in.
        fields: Its figures, JSON values.
    """

    kind: EventKind
    round: int
    fields: dict[str, Any] = field(default_factory=dict)


Observer = Callable[[Event], None]


class Emit(Protocol):
    """Sends an event, by default of the round in work."""

    def __call__(self, kind: EventKind, round: int | None = None, **fields: Any) -> None: ...


PROGRESS = (EventKind.TRAINING, EventKind.TRAINING_CONFIGURATIONS, EventKind.SEARCHING)
"""Progress within a phase; worth a progress bar, not a line of the log."""


def event_line(event: Event) -> dict[str, Any]:
    """Return an event, and the time now, as the JSON values that a line of the log holds."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    fixed = {"time": time, "event": event.kind, "round": event.round}
    # Fixed keys come first, and figures of plugins' own naming do not replace them.
    found: dict[str, Any] = finite(fixed | event.fields | fixed)
    return found


def _last_byte(stream: IO[bytes]) -> bytes:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1)


def event_log(path: Path) -> Observer:
    """Return an observer that appends each event to a file as one line of JSON.

    The observer raises :class:`InputError` if the file is a link, or no regular file.
    """

    def observe(event: Event) -> None:
        if event.kind in PROGRESS:
            return
        text = json.dumps(event_line(event), allow_nan=False)
        with open(path, "a+b", opener=no_links) as stream:
            # A killed process, or a full disk, may have left half a line.
            is_cut = stream.tell() > 0 and _last_byte(stream) != b"\n"
            stream.write((b"\n" if is_cut else b"") + text.encode() + b"\n")

    return observe


def all_of(observers: Sequence[Observer]) -> Observer:
    """Return an observer that tells several, in order."""

    def observe(event: Event) -> None:
        for observer in observers:
            observer(event)

    return observe


def finite(value: Any) -> Any:
    """Return JSON values with null for each number that JSON cannot write."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of an event log, the first one first; none if there is no log."""
    if not path.is_file():
        return []
    lines = read_last_lines(path, MAX_LOG)
    return [line for line in map(_whole, lines) if line is not None]


def last_event(path: Path) -> dict[str, Any] | None:
    """Return the last whole line of an event log, or None."""
    if not path.is_file():
        return None
    lines = map(_whole, reversed(read_last_lines(path, MAX_LOG)))
    return next((line for line in lines if line is not None), None)


def _whole(text: str) -> dict[str, Any] | None:
    """Return a line of a log as JSON values; None for the half line of a killed process."""
    try:
        loaded = json.loads(text)
    except (RecursionError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None
