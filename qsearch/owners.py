"""Who runs a study: which user's process, on which host, and whether it still lives."""

from __future__ import annotations

import getpass
import os
import socket
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


@dataclass(frozen=True)
class Owner:
    """A process that runs a study. What an old or damaged note does not tell is None.

    Args:
        user: Its user.
        host: Its host's name.
        process: Its number there.
        since: When it took the study, ISO 8601.
        started: When the process started, seconds since 1970; numbers are used again.
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

    def is_dead(self) -> bool | None:
        """Return whether the process has ended, or None if that cannot be told from here."""
        if not self.shares_kernel() or self.processes != _processes() or self.process is None:
            return None
        try:
            found = psutil.Process(self.process)
            if found.status() == psutil.STATUS_ZOMBIE:
                return True
            return self.started is not None and (
                abs(found.create_time() - self.started) > _SAME_START
            )
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return None


def this_process() -> Owner:
    """Return this process as an owner from now on."""
    return Owner(
        user=_user(),
        host=socket.gethostname(),
        process=os.getpid(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        started=psutil.Process().create_time(),
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


def _processes() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "all"
