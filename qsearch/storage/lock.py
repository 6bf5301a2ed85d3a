"""One process at a time in a study directory.

The operating system's lock decides, and is freed when its process dies. A note next to it says who
holds it, for messages alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from qsearch.errors import InputError, StudyBusyError
from qsearch.storage.bounded_reading import open_regular, read_text
from qsearch.storage.files import cannot_write, no_links, write_json
from qsearch.storage.paths import LOCK, OWNER

_PATIENCE_SECONDS = 1.0
"""Whoever looks for the owner holds the lock for a moment; a run waits longer than that."""

_MAX_NOTE = 10_000


@dataclass(frozen=True)
class Owner:
    """A process that runs a study since a time (ISO 8601); what is not known is None."""

    user: str | None = None
    host: str | None = None
    process: int | None = None
    since: str | None = None

    def describe(self) -> str:
        """Return the owner as text."""
        known = ("?" if part is None else part for part in (self.process, self.host, self.since))
        text = "process {} on {} since {}".format(*known)
        return f"{text} (user {self.user})" if self.user else text


def this_process() -> Owner:
    """Return this process as an owner from now on."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container may run as a number without a name.
        user = str(os.getuid())
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Owner(user, socket.gethostname(), os.getpid(), since)


@contextlib.contextmanager
def study_lock(directory: Path) -> Iterator[Owner | None]:
    """Hold the study's directory for this process; the system frees it if the process dies.

    The value is the owner before, if it died while it held the directory.

    Raises:
        StudyBusyError: If another process holds it.
        QsearchError: If the directory cannot be written.
    """
    # A lock of files that come and go would outlive a process that is killed.
    lock = FileLock(directory / LOCK, timeout=_PATIENCE_SECONDS, fallback_to_soft=False)
    note = directory / OWNER
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock)
            before = _read_note(directory)
            write_json(note, asdict(this_process()))
        except Timeout:
            owner = _read_note(directory)
            if owner is None:  # Others read.
                raise StudyBusyError(
                    f"{directory}: this study is being archived; try again later"
                ) from None
            here = this_process()
            is_own = (owner.host, owner.process) == (here.host, here.process)
            advice = "close it here" if is_own else "wait for it, or give another --out"
            raise StudyBusyError(
                f"{directory}: this study is being run already, by {owner.describe()}; {advice}"
            ) from None
        except OSError as error:
            raise cannot_write(directory, error) from error
        # Removed before the lock is freed.
        held.callback(note.unlink, missing_ok=True)
        yield before


@contextlib.contextmanager
def reading_lock(directory: Path) -> Iterator[None]:
    """Keep others from running a study while all of it is read.

    Nothing is written, save an empty lock where there is none: the disk may be full, or read-only.
    Where another process runs it, this is a StudyBusyError.
    """
    path = directory / LOCK
    try:
        handle = no_links(str(path), os.O_RDONLY | os.O_CREAT)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        if not _share(handle):
            owner = _read_note(directory) or Owner()
            raise StudyBusyError(
                f"{directory}: this study is being run, by {owner.describe()}; wait for it"
            )
        yield
    finally:
        os.close(handle)


def lock_owner(directory: Path) -> Owner | None:
    """Return who runs the study now; None if nobody does."""
    return (_read_note(directory) or Owner()) if _is_held(directory) else None


def dead_owner(directory: Path) -> Owner | None:
    """Return who died while running the study, if that was the last to run it."""
    return None if _is_held(directory) else _read_note(directory)


def _is_held(directory: Path) -> bool:
    try:
        with open_regular(directory / LOCK) as stream:
            return not _share(stream.fileno())
    except OSError:
        return False


def _share(handle: int) -> bool:
    """Share the lock of an open file with other readers; return False if a process runs."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_note(directory: Path) -> Owner | None:
    try:
        text = read_text(directory / OWNER, _MAX_NOTE)
        return TypeAdapter(Owner).validate_json(text, strict=True)
    except (OSError, ValueError):
        return None
