"""What a running study tells: events for the log and for whoever watches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened in a study.

    Args:
        kind: What happened, such as ``evaluated``.
        round: The round it happened in.
        fields: Its figures, JSON values.
    """

    kind: str
    round: int
    fields: dict[str, Any] = field(default_factory=dict)


Observer = Callable[[Event], None]

_NOT_LOGGED = ("training", "searching", "screening")
"""Progress within a phase; worth a progress bar, not a line of the log."""


def event_log(path: Path) -> Observer:
    """Return an observer that appends each event to a file as one line of JSON."""

    def observe(event: Event) -> None:
        if event.kind in _NOT_LOGGED:
            return
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "event": event.kind,
            "round": event.round,
            **event.fields,
        }
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(_finite(line), allow_nan=False) + "\n")

    return observe


def _finite(value: Any) -> Any:
    """Return JSON values with null for each number that JSON cannot write."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def last_event(path: Path) -> dict[str, Any] | None:
    """Return the last whole line of an event log, or None."""
    if not path.is_file():
        return None
    for line in reversed(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            loaded = json.loads(line)
        except ValueError:
            continue  # A killed process may leave half a line.
        if isinstance(loaded, dict):
            return loaded
    return None
