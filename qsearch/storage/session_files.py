"""Files that say which sessions ran a study, and which experiment it belongs to."""

from __future__ import annotations

import uuid
from pathlib import Path

from qsearch.provenance.session import (
    Session,
    session_of,
)
from qsearch.storage.checksums import damage
from qsearch.storage.files import read_state, write_state
from qsearch.storage.paths import IDENTITY, SESSIONS


def read_sessions(directory: Path) -> tuple[Session, ...]:
    """Return a study's sessions, in order; those of earlier versions of qsearch are not known.

    Raises:
        DamagedFileError: If their file is damaged.
    """
    path = directory / SESSIONS
    return read_sessions_file(path) if path.is_file() else ()


def read_sessions_file(path: Path) -> tuple[Session, ...]:
    """Return the sessions in a file.

    Raises:
        DamagedFileError: If it is damaged.
    """
    loaded = read_state(path)
    with damage(path, AttributeError, KeyError, TypeError, ValueError):
        return tuple(session_of(entry) for entry in loaded["sessions"])


def database_identity(directory: Path) -> str:
    """Return what ties a study directory to its experiment, made once for each directory."""
    path = directory / IDENTITY
    if not path.is_file():
        write_state(path, {"study": str(uuid.uuid4())})
    return f"qsearch study {read_identity(path)}"


def read_identity(path: Path) -> str:
    """Return what ties a study directory to its experiment.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    loaded = read_state(path)
    with damage(path, KeyError, TypeError, ValueError):
        return str(uuid.UUID(str(loaded["study"])))
