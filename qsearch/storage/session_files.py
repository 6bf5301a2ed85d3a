"""Files that say which sessions ran a study, and which experiment it belongs to."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qsearch.provenance.session import Session
from qsearch.storage.paths import IDENTITY, SESSIONS
from qsearch.storage.state_file import StateFile


@dataclass(frozen=True)
class _Sessions:
    sessions: tuple[Session, ...]


@dataclass(frozen=True)
class _Identity:
    study: uuid.UUID = field(default_factory=uuid.uuid4)


_SESSIONS = StateFile(_Sessions)
_IDENTITY = StateFile(_Identity)


def write_sessions(directory: Path, sessions: Sequence[Session]) -> None:
    """Write a study's sessions, in order."""
    _SESSIONS.write(directory / SESSIONS, _Sessions(tuple(sessions)))


def read_sessions(directory: Path) -> tuple[Session, ...]:
    """Return a study's sessions, in order; DamagedFileError if their file is damaged."""
    path = directory / SESSIONS
    return _SESSIONS.read(path).sessions if path.is_file() else ()


def database_identity(directory: Path) -> str:
    """Return what ties a study directory to its experiment, made once for each directory."""
    path = directory / IDENTITY
    if not path.is_file():
        _IDENTITY.write(path, _Identity())
    return read_identity(path)


def read_identity(path: Path) -> str:
    """Return what the file of that identity says; DamagedFileError if it is damaged."""
    return f"qsearch study {_IDENTITY.read(path).study}"
