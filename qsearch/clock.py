"""How long a study has run, over all its sessions."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from qsearch.errors import QsearchError
from qsearch.records import write_json

CLOCK = "state/clock.json"
_SAVED_EVERY = 30.0  # Seconds; a killed process loses no more, while it has something to tell.


def _now() -> float:
    return time.monotonic()


class Clock:
    """Counts a study's wall time on from what its earlier sessions have saved.

    Args:
        directory: The study's directory.

    Raises:
        QsearchError: If what was saved is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / CLOCK
        self._before = _read(self._path)
        self._start = self._saved = _now()

    @property
    def hours(self) -> float:
        """Wall time of all sessions, this one included."""
        return (self._before + _now() - self._start) / 3600

    def keep(self) -> None:
        """Save the time, unless that was done a moment ago."""
        if _now() - self._saved >= _SAVED_EVERY:
            self._save()

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Save the time when the work inside ends, however it ends."""
        try:
            yield
        finally:
            # Where a disk is full, the error that ended the work is the one to tell.
            with contextlib.suppress(OSError):
                self._save()

    def _save(self) -> None:
        write_json(self._path, {"seconds": self.hours * 3600})
        self._saved = _now()


def _read(path: Path) -> float:
    if not path.is_file():
        return 0.0
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise QsearchError(
            f"{path}: damaged: {error}; delete it, and the study's time counts from zero"
        ) from error
