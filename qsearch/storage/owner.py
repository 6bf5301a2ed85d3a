"""Who runs a study: which user's process, on which host, and whether it still lives."""

from __future__ import annotations

import getpass
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

BEAT_SECONDS = 20.0
"""How often an owner says that it lives."""

STALE_SECONDS = 300.0
"""How long an owner may be silent before others take it for dead."""

_SAME_START = 2.0  # Seconds; the start of a process is told to some hundredths.
_FIRST_DATE = 1e9
"""Seconds: a start from here on is one since 1970, as no kernel runs for thirty years."""


@dataclass(frozen=True)
class Owner:
    """A process that runs a study. What an old or damaged note does not tell is None.

    Args:
        user: Its user.
        host: Its host's name.
        process: Its number there.
        since: When it took the study, ISO 8601.
        started: When the process started, since numbers are used again: seconds since its kernel
            did, or since 1970 where the kernel does not tell, or an earlier version wrote it.
        kernel: Identity of the running kernel, so that hosts of one name are told apart.
        processes: Identity of the kernel's list of processes, of which containers have their own.
    """

    user: str | None = None
    host: str | None = None
    process: int | None = None
    since: str | None = None
    started: float | None = None
    kernel: str | None = None
    processes: str | None = None

    def describe(self) -> str:
        """Return the owner in words."""
        known = ("?" if part is None else part for part in (self.process, self.host, self.since))
        words = "process {} on {} since {}".format(*known)
        return f"{words} (user {self.user})" if self.user else words

    def note(self) -> dict[str, Any]:
        """Return the owner as JSON has it."""
        return asdict(self)

    def shares_kernel(self) -> bool:
        """Return whether it runs, or ran, under the kernel of this process."""
        return self.kernel == _kernel()

    def is_dead(self, silence: float) -> bool | None:
        """Return whether the process has ended, or None if that cannot be told from here.

        Args:
            silence: Seconds since it was heard of.
        """
        if not self.shares_kernel():
            # Heard of before this kernel started, and not since: its host was started again. The
            # living owner on another host of this name is heard of at each beat.
            before = silence > max(_uptime(), 2 * BEAT_SECONDS)
            return True if before and self.host == socket.gethostname() else None
        if self.processes != _processes() or self.process is None:
            return None
        try:
            found = psutil.Process(self.process)
            if found.status() == psutil.STATUS_ZOMBIE:
                return True
            if self.started is None:
                return False
            start = None if self.started >= _FIRST_DATE else _start_since_boot(self.process)
            if start is None:
                start = float(found.create_time())
            return abs(start - self.started) > _SAME_START
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return None


def this_process() -> Owner:
    """Return this process as an owner from now on."""
    started = _start_since_boot(os.getpid())
    return Owner(
        user=_user(),
        host=socket.gethostname(),
        process=os.getpid(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        started=psutil.Process().create_time() if started is None else started,
        kernel=_kernel(),
        processes=_processes(),
    )


def read_owner(note: object) -> Owner | None:
    """Return the owner that a note tells of, as far as it is one; None if it is not."""
    if not isinstance(note, Mapping) or not note:
        return None
    kinds: dict[str, tuple[type, ...]] = {"process": (int,), "started": (int, float)}
    known: dict[str, Any] = {
        field.name: note[field.name]
        for field in fields(Owner)
        if isinstance(note.get(field.name), kinds.get(field.name, (str,)))
    }
    return Owner(**known)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container may run as a number without a name.
        return str(os.getuid())


def _kernel() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # Not Linux.
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _uptime() -> float:
    """Return the seconds since the running kernel started."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - float(psutil.boot_time())


def _start_since_boot(process: int) -> float | None:
    """Return how many seconds after its kernel a process started, or None if that is not told.

    Unlike psutil's time of it, this stays the same when the clock is set.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # Not Linux, or it has ended.
        return None
    # Its name, in parentheses, may hold anything; the start is the 22nd field of all.
    return int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def _processes() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "all"
