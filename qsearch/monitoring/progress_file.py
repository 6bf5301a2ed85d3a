"""The latest progress within a phase, in a small file, so that other terminals see it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qsearch.monitoring.events import PROGRESS, Event, Observer, event_line
from qsearch.storage.bounded_reading import MAX_STATE, read_text
from qsearch.storage.paths import PROGRESS_FILE

_EVERY = 1.0  # Seconds between two writings: training steps may take milliseconds.


def progress_file(directory: Path, now: Callable[[], float] = time.monotonic) -> Observer:
    """Return an observer that keeps the latest progress in a study's directory.

    The file also says how far the phase was when this session first told of it, and when, so
    that its pace can be told. A file that cannot be written is left as it is: progress is worth
    no study.

    Args:
        directory: The study's directory.
        now: Clock that spaces the writings, in seconds.
    """
    path = directory / PROGRESS_FILE
    temporary = path.with_name(f".{path.name}.new")
    phase: tuple[str, int] | None = None
    begun: dict[str, Any] = {}
    written = -float("inf")

    def observe(event: Event) -> None:
        nonlocal phase, begun, written
        if event.kind not in PROGRESS:
            return
        is_new = (event.kind, event.round) != phase
        if not is_new and now() - written < _EVERY:
            return
        line = event_line(event)
        if is_new:
            phase = (event.kind, event.round)
            begun = {"since": line["time"], "first": done_of(line)}
        written = now()
        with contextlib.suppress(OSError):
            # Without waiting for the disk: losing this file in a power cut harms nothing.
            temporary.unlink(missing_ok=True)
            with temporary.open("x", encoding="utf-8") as stream:  # Through no link.
                json.dump({**line, **begun}, stream)
            temporary.replace(path)

    return observe


def done_of(line: dict[str, Any]) -> int:
    """Return how much of its phase an event of progress says is done: steps or items."""
    done = line.get("step" if line.get("event") == "training" else "done")
    return done if isinstance(done, int) else 0


def read_progress(directory: Path) -> dict[str, Any] | None:
    """Return the progress that was last kept, or None if there is none that can be read."""
    try:
        loaded = json.loads(read_text(directory / PROGRESS_FILE, MAX_STATE))
    except (OSError, RecursionError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None
