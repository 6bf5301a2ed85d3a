"""The checksum that each state file holds: SHA-256 of the file with zeros in the checksum's place.

One way for JSON, YAML, safetensors and Parquet files: all are text where the checksum stands.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from qsearch._text import in_one_line
from qsearch.errors import DamagedFileError, InputError
from qsearch.storage.bounded_reading import read_bytes
from qsearch.storage.paths import remedy

CHECKSUM = "checksum"
"""Key of the checksum in JSON files and in the headers of safetensors files."""

_ZEROS = "0" * 64

BLANK = f"sha256:{_ZEROS}"
"""What stands in a checksum's place until it is computed."""

# A quote within a JSON string has a backslash before it, so no text of others looks like this.
_PLACE = re.compile(rb'(?:"checksum": ?"|\A# checksum: )sha256:([0-9a-f]{64})')


def with_checksum(content: bytes, is_last: bool = False) -> bytes:
    """Return content with its checksum instead of the :data:`BLANK` that it holds.

    That is the first text that looks like a checksum, or the last.
    """
    start, end = _place(content, is_last)
    return content[:start] + _digest(content, start, end) + content[end:]


def _place(content: bytes, is_last: bool) -> tuple[int, int]:
    matches = [match.span(1) for match in _PLACE.finditer(content)]
    if not matches:
        raise ValueError("its checksum is missing")
    return matches[-1 if is_last else 0]


def _digest(content: bytes, start: int, end: int) -> bytes:
    view = memoryview(content)
    digest = hashlib.sha256(view[:start])
    digest.update(_ZEROS.encode())
    digest.update(view[end:])
    return digest.hexdigest().encode()


def yaml_with_checksum(text: str) -> bytes:
    """Return YAML after a comment that holds its checksum."""
    return with_checksum(f"# {CHECKSUM}: {BLANK}\n{text}".encode())


def read_checked(path: Path, limit: int | None = None, is_last: bool = False) -> bytes:
    """Return the content of a file, of at most ``limit`` bytes, that :func:`with_checksum` gave.

    Raises:
        DamagedFileError: If it is not what was written.
        FileNotFoundError: If it is missing.
    """
    with damage(path, OSError, ValueError):
        content = read_bytes(path, limit)
        start, end = _place(content, is_last)
        if content[start:end] != _digest(content, start, end):
            raise ValueError("its checksum differs")
        return content


@contextlib.contextmanager
def damage(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn the given errors of reading into a DamagedFileError that says what to do."""
    kinds: tuple[type[Exception], ...] = (InputError, *errors)
    try:
        yield
    except (DamagedFileError, FileNotFoundError):
        raise
    except kinds as error:
        reason = in_one_line(error) or type(error).__name__
        raise DamagedFileError(f"{path}: damaged: {reason}; {remedy(path)}") from error
