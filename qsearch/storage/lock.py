"""One process at a time in a study directory.

The operating system's lock decides: it frees itself when its process dies. Beside it the owner
leaves a note, and touches the file now and then. These decide only where the system's lock cannot:
on file systems that have none, or that do not share it between hosts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from qsearch.errors import InputError, StudyBusyError
from qsearch.storage.files import no_links
from qsearch.storage.heartbeat import heartbeat
from qsearch.storage.owner import BEAT_SECONDS, STALE_SECONDS, Owner, read_owner, this_process
from qsearch.storage.paths import LOCK

_PATIENCE_SECONDS = 1.0
"""Whoever looks for the owner holds the lock for a moment; a run waits longer than that."""

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_FILE = "file"
_MAX_NOTE = 10_000
_TO_RUN = "this study is being run already, by {}; wait for it, or give another --out"
_TO_READ = "this study is being run, by {}; wait for it"


@contextlib.contextmanager
def study_lock(directory: Path) -> Iterator[Owner | None]:
    """Hold the study's directory for this process; the system frees it if the process dies.

    Yields:
        The owner before, if it died while it held the directory.

    Raises:
        StudyBusyError: If another process holds it.
        InputError: If the lock's file cannot be written, or is a link.
    """
    with _opened(directory, "a+") as stream:
        before, _ = _take(directory, stream, fcntl.LOCK_EX, _TO_RUN)
        stream.truncate(0)
        note = {**this_process().note(), _FILE: os.fstat(stream.fileno()).st_ino}
        json.dump(note, stream)
        stream.flush()

        def touch() -> bool:
            os.utime(stream.fileno())
            return True

        try:
            with heartbeat(touch, BEAT_SECONDS):
                yield before
        finally:
            stream.truncate(0)


@contextlib.contextmanager
def reading_lock(directory: Path) -> Iterator[None]:
    """Keep others from running a study while all of it is read.

    Where the system has locks, nothing is written: the disk may be full, or read-only.

    Raises:
        StudyBusyError: If another process runs it.
        InputError: If the lock's file cannot be opened, or is a link.
    """
    with _opened(directory, "r") as stream:
        _, locks = _take(directory, stream, fcntl.LOCK_SH, _TO_READ)
        with contextlib.nullcontext() if locks else study_lock(directory):
            yield


def _opened(directory: Path, mode: str) -> IO[str]:
    """Open the lock's file, or make it."""
    path = directory / LOCK

    def opener(name: str, flags: int) -> int:
        return no_links(name, flags | os.O_CREAT)

    try:
        return open(path, mode, encoding="utf-8", opener=opener)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error


def _take(directory: Path, stream: IO[str], kind: int, busy: str) -> tuple[Owner | None, bool]:
    """Lock the open file; return who is noted in it, and whether its file system has locks.

    Args:
        directory: The study's directory.
        stream: The lock's file.
        kind: Exclusively or shared, as ``fcntl`` calls it.
        busy: What is told if the study is being run, with a place for its owner.

    Raises:
        StudyBusyError: If another process holds it.
    """
    try:
        locks = _acquire(stream, kind)
    except BlockingIOError as error:
        raise _busy(directory, lock_owner(directory), busy) from error
    noted = _note(stream, of_this_file=True)
    if noted and _lives_elsewhere(stream, noted, locks):
        raise _busy(directory, noted, busy)
    return noted, locks


def _busy(directory: Path, owner: Owner | None, busy: str) -> StudyBusyError:
    if owner is None:  # Others read, or what ran it has ended just now.
        return StudyBusyError(f"{directory}: this study is being archived; try again later")
    return StudyBusyError(f"{directory}: {busy.format(owner.describe())}")


def _acquire(stream: IO[str], kind: int) -> bool:
    """Lock an open file, exclusively or shared; return whether its file system has locks."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(stream, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False


def lock_owner(directory: Path) -> Owner | None:
    """Return who runs the study now; None if nobody does."""
    return _look(directory)[0]


def dead_owner(directory: Path) -> Owner | None:
    """Return who died while running the study, if that was the last to run it."""
    return _look(directory)[1]


def _look(directory: Path) -> tuple[Owner | None, Owner | None]:
    """Return the owner, and the owner that died."""
    path = directory / LOCK
    if not path.is_file():
        return None, None
    with path.open("r", encoding="utf-8") as stream:
        locks = True
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _note(stream) or Owner(), None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            locks = False
        note = _note(stream, of_this_file=True)
        if note is None:
            return None, None
        return (note, None) if _lives_elsewhere(stream, note, locks) else (None, note)


def _note(stream: IO[str], of_this_file: bool = False) -> Owner | None:
    """Return the owner that a lock's file tells of, if it does.

    Args:
        stream: The open file.
        of_this_file: Whether a note that was copied along with its directory counts as none.
    """
    stream.seek(0)
    try:
        found: Any = json.loads(stream.read(_MAX_NOTE))
    except (RecursionError, ValueError):  # Half a note of a killed process, or no text at all.
        return None
    owner = read_owner(found)
    if of_this_file and owner and found.get(_FILE) != os.fstat(stream.fileno()).st_ino:
        return None
    return owner


def _lives_elsewhere(stream: IO[str], owner: Owner, locks: bool) -> bool:
    """Return whether a note's owner lives, although the system's lock is free or missing."""
    if locks and owner.shares_kernel():
        return False  # One kernel's locks are the same for all of its processes.
    silence = _silence(Path(stream.name))
    dead = owner.is_dead(silence)
    return silence < STALE_SECONDS if dead is None else not dead


def _silence(path: Path) -> float:
    """Return the seconds since a file was touched, by the clock of its file system."""
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            now = os.fstat(probe.fileno()).st_mtime
    except OSError:  # Nothing can be written there.
        now = time.time()
    return now - path.stat().st_mtime
