"""Files that are written whole or not at all.

Each is written under another name, saved to the disk and renamed. What a killed process left half
written is removed by the next run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qsearch.errors import InputError, QsearchError
from qsearch.storage.bounded_reading import open_regular

_PART = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, which ``write`` gets, and rename it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{_PART}")
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    mode = stat.S_IMODE(os.fstat(handle).st_mode)  # What the user's mask leaves of it.
    try:
        with contextlib.suppress(OSError):  # Not every file system locks.
            fcntl.flock(handle, fcntl.LOCK_EX)  # What a killed process left has no lock.
        write(temporary)
        _sync(temporary)
        temporary.chmod(mode)  # Libraries put files of their own in its place.
        temporary.replace(path)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Not every file system can save a folder by itself.
        _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_output(path: Path, text: str) -> Path:
    """Write the text that a command has made into the file of its ``--out``, and return that.

    Its folder is made if needed. What is not text, as in names of directories, is replaced.

    Raises:
        InputError: If the file cannot be written.
        QsearchError: If the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode("utf-8", "replace"))
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def cannot_write(path: object, error: Exception, option: str = "--out") -> QsearchError:
    """Return what to raise where the file or folder of an option cannot be written.

    A full disk is not the fault of the input, whichever library reports it.
    """
    number = getattr(error, "errno", None)
    if number == errno.ELOOP and isinstance(error, OSError):
        return InputError(f"{error.filename}: is a link, and links are not followed; remove it")
    # safetensors has an error of its own, which quotes that of the system.
    quoted = re.search(r"os error (\d+)", str(error))
    reason = f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}"
    if number in _FULL or (quoted and int(quoted[1]) in _FULL):
        return QsearchError(f"{reason}; make room, then run the same command")
    return InputError(f"{reason}; give another {option}")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically, without a checksum: for files that others read, too."""
    write_bytes(path, json.dumps(value, indent=1).encode() + b"\n")


def no_links(path: str, flags: int) -> int:
    """Open a regular file, and none that a link leads to: an opener for :func:`open`.

    For files that are written where they lie: in a directory that comes from others, a link could
    lead to any file of the user's. Links and other files are an InputError.
    """
    try:
        # Not to wait where it is a pipe.
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{path}: is a link, and links are not followed; remove it") from error
        if error.errno == errno.EISDIR:
            raise InputError(f"{path}: is not a regular file; remove it") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: is not a regular file; remove it")
    return handle


def remove_leftovers(directory: Path) -> None:
    """Remove what killed processes left half written in a study directory."""
    part = f".*{_PART}"
    for path in (*directory.glob(part), *(directory / "state").rglob(part)):
        with contextlib.suppress(OSError), open_regular(path) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # A report may be in writing.
            path.unlink()
