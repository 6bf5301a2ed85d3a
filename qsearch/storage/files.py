"""Files of a study: written whole or not at all, and checked when they are read.

Each holds a checksum of its content. Small files, and files that change, have a second one beside
them, ``NAME.previous``: what the file held before, at first the same. What a killed process left
half written has a name of its own, and is removed by the next run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from qsearch.errors import DamagedFileError, InputError
from qsearch.storage.bounded_reading import MAX_STATE, open_regular, read_text
from qsearch.storage.checksums import (
    CHECKSUM,
    SAFETENSORS_PART,
    SIGN,
    checksum_of,
    damage,
    require_checksum,
)
from qsearch.storage.paths import PREVIOUS, previous_path

_PART = ".part"
T = TypeVar("T")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name and rename it, so that readers never see half of it.

    Args:
        path: Where the file ends up; its directory exists.
        write: Called with the temporary path.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{_PART}")
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    mode = stat.S_IMODE(os.fstat(handle).st_mode)  # What the user's mask leaves of it.
    try:
        with contextlib.suppress(OSError):  # Not every file system locks.
            fcntl.flock(handle, fcntl.LOCK_EX)  # Tells it from what a killed process left.
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


def no_links(path: str, flags: int) -> int:
    """Open a regular file, and none that a link leads to: an opener for :func:`open`.

    For files that are written where they lie: in a directory that comes from others, a link could
    lead to any file of the user's.

    Args:
        path: The file.
        flags: As :func:`os.open` takes them.

    Raises:
        InputError: If it is a link, or no regular file.
        OSError: If it cannot be opened otherwise.
    """
    try:
        # Not to wait where it is a pipe.
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{path}: is a link, and links are not followed; remove it") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: is no regular file; remove it")
    return handle


def write_keeping_previous(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically; what it held before stays as ``NAME.previous``.

    A file that is new has itself for its previous version, so that there is always one.

    Args:
        path: Where the file ends up; its directory exists.
        write: Called with a temporary path, twice for a new file.
    """
    if path.is_file():
        _keep(path)
    else:
        write_atomically(previous_path(path), write)
    write_atomically(path, write)


def delete(path: Path) -> None:
    """Delete a file and its previous version."""
    previous_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _keep(path: Path) -> None:
    """Make a file its own previous version: by another link to it, or a copy where that fails."""
    temporary = path.with_name(f".{path.name}{PREVIOUS}{_PART}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        write_atomically(previous_path(path), lambda copy: shutil.copyfile(path, copy))
        return
    temporary.replace(previous_path(path))


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically, as it is: for files that others read, too."""
    text = json.dumps(value, indent=1)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def write_state(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a state file: JSON with a checksum, and its previous version kept.

    Args:
        path: Where the file ends up; its directory exists.
        fields: JSON values by name.
    """
    plain = json.loads(json.dumps(fields))
    text = json.dumps({**plain, CHECKSUM: checksum_of(plain)}, indent=1) + "\n"
    write_keeping_previous(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_state(path: Path) -> Any:
    """Return the JSON value of a state file; one of an earlier version has no checksum.

    Raises:
        DamagedFileError: If the file is not what was written.
    """
    with damage(path, OSError, ValueError, RecursionError):
        text = read_text(path, MAX_STATE)
        value = json.loads(text)
        if not isinstance(value, dict) or CHECKSUM not in value:
            if SIGN in text:
                raise ValueError("its checksum is not where it was")
            return value
        require_checksum(value.pop(CHECKSUM), checksum_of(value))
        return value


def read_or_previous(path: Path, read: Callable[[Path], T], note: Callable[[str], None]) -> T:
    """Return what a file holds; if it is damaged, what its previous version holds.

    Args:
        path: The file.
        read: Reads it, or another version of it.
        note: Told if the previous version is taken.

    Raises:
        DamagedFileError: If the file is damaged, and there is no good previous version.
    """
    try:
        return read(path)
    except DamagedFileError as error:
        try:
            value = read(previous_path(path))
        except (DamagedFileError, OSError):
            raise error from None
        note(f"{error}; what is read is its previous version")
        return value


def to_standard_error(message: str) -> None:
    """Print a message for the user to standard error."""
    print(f"qsearch: {message}", file=sys.stderr)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written in a folder."""
    for path in (*folder.glob(f".*{_PART}"), *folder.glob(SAFETENSORS_PART)):
        with contextlib.suppress(OSError), open_regular(path) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # A report may be being written.
            path.unlink()


@contextlib.contextmanager
def written_anew_by_a_run() -> Iterator[None]:
    """Tell of a damaged file that running the study again writes anew.

    Raises:
        InputError: In place of the :class:`DamagedFileError`.
    """
    try:
        yield
    except DamagedFileError as error:
        raise InputError(
            f"{error}; running the study again, as it was run, writes it anew"
        ) from error
