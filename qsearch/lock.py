"""One process at a time in a study directory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from qsearch.errors import StudyBusyError

LOCK = "state/lock"
_PATIENCE_SECONDS = 1.0
"""Whoever looks for the owner holds the lock for a moment; a run waits longer than that."""


@contextlib.contextmanager
def study_lock(directory: Path) -> Iterator[None]:
    """Hold the study's directory for this process; the system frees it if the process dies.

    Raises:
        StudyBusyError: If another process holds it.
    """
    with (directory / LOCK).open("a+", encoding="utf-8") as stream:
        try:
            _acquire(stream)
        except BlockingIOError as error:
            owner = lock_owner(directory) or {}
            raise StudyBusyError(
                f"{directory}: this study is being run already, by {describe_owner(owner)};"
                " wait for it, or give another --out"
            ) from error
        stream.truncate(0)
        json.dump(
            {
                "process": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            stream,
        )
        stream.flush()
        yield
        stream.truncate(0)


def _acquire(stream: IO[str]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def lock_owner(directory: Path) -> dict[str, Any] | None:
    """Return who runs the study now: process, host, since; None if nobody does."""
    path = directory / LOCK
    if not path.is_file():
        return None
    with path.open("r", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                owner: dict[str, Any] = json.loads(stream.read())
            except json.JSONDecodeError:
                return {}
            return owner
    return None


def describe_owner(owner: dict[str, Any]) -> str:
    """Return a lock's owner in words."""
    return (
        f"process {owner.get('process', '?')} on {owner.get('host', '?')}"
        f" since {owner.get('since', '?')}"
    )
