"""How long a study has run, over all its sessions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qsearch.storage.paths import CLOCK
from qsearch.storage.state_file import StateFile

_SAVED_EVERY = 30.0  # Seconds; a killed process loses no more, while it emits events.


@dataclass(frozen=True)
class _Time:
    seconds: float


_FILE = StateFile(_Time)


def _now() -> float:
    return time.monotonic()


class Clock:
    """Counts a study's wall time on from what its earlier sessions have saved."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CLOCK
        self._before = read_seconds(self._path) if self._path.exists() else 0.0
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
            # Where a disk is full, the error that ended the work is the one to report.
            with contextlib.suppress(OSError):
                self._save()

    def _save(self) -> None:
        _FILE.write(self._path, _Time(self.hours * 3600))
        self._saved = _now()


def read_seconds(path: Path) -> float:
    """Return the wall time that a clock's file holds, in seconds."""
    return _FILE.read(path).seconds
