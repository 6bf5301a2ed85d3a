"""Checksums of state files: text, tables and tensors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsearch.errors import DamagedFileError
from qsearch.storage.bounded_reading import MAX_STATE, read_text
from qsearch.storage.paths import PREVIOUS, previous_path

CHECKSUM = "checksum"
"""Under which key JSON files, and the headers of safetensors files, keep their checksum."""


SAFETENSORS_PART = ".tmp??????"
"""What the safetensors library calls a file while it writes it."""


SIGN = "sha256:"


_COMMENT = re.compile(r"# checksum: (sha256:[0-9a-f]{64})\n")


def checksum_of(value: Any) -> str:
    """Return the checksum of a JSON value."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return SIGN + hashlib.sha256(canonical.encode()).hexdigest()


def with_checksum(text: str) -> str:
    """Return text after a line of comment, as YAML has it, that holds its checksum."""
    return f"# {CHECKSUM}: {_text_checksum(text)}\n{text}"


def require_text(text: str, must_have_checksum: bool) -> None:
    """Require that text is what :func:`with_checksum` returned.

    Args:
        text: The text.
        must_have_checksum: Whether to refuse a text without a checksum.

    Raises:
        ValueError: If it is not.
    """
    found = _COMMENT.match(text)
    if found:
        require_checksum(found[1], _text_checksum(text[found.end() :]))
    elif must_have_checksum:
        raise ValueError("its checksum is not where it was")


def require_text_file(path: Path) -> None:
    """Require that a file, or another version of it, has text of :func:`with_checksum`.

    Raises:
        DamagedFileError: If it has not; a file of an earlier version has no checksum.
    """
    with damage(path, OSError, ValueError):
        is_new = path.suffix == PREVIOUS or previous_path(path).is_file()
        require_text(read_text(path, MAX_STATE), must_have_checksum=is_new)


def _text_checksum(text: str) -> str:
    return SIGN + hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class TensorBytes:
    """What a checksum of tensors is over, of one of them.

    Args:
        name: Its name.
        kind: Type of its elements.
        shape: Its shape.
        content: Its bytes, as an array of bytes or the like.
    """

    name: str
    kind: str
    shape: Sequence[int]
    content: Any


def tensors_checksum(tensors: Iterable[TensorBytes], header: Mapping[str, str]) -> str:
    """Return the checksum of tensors and the header that is saved with them.

    Args:
        tensors: The tensors.
        header: The header; its own checksum does not count.
    """
    rest = sorted((key, value) for key, value in header.items() if key != CHECKSUM)
    digest = hashlib.sha256(json.dumps(rest).encode())
    for tensor in sorted(tensors, key=lambda one: one.name):
        digest.update(json.dumps([tensor.name, tensor.kind, list(tensor.shape)]).encode())
        digest.update(tensor.content)
    return SIGN + digest.hexdigest()


def require_header(header: Mapping[str, str], tensors: Iterable[TensorBytes]) -> None:
    """Require the checksum in a header, if it has one, to be that of the tensors.

    Args:
        header: Of the file; one of an earlier version has no checksum.
        tensors: All of the file's.

    Raises:
        ValueError: If it is not.
    """
    if CHECKSUM in header:
        require_checksum(header[CHECKSUM], tensors_checksum(tensors, header))
    elif any(value.startswith(SIGN) for value in header.values()):
        raise ValueError("its checksum is not where it was")


def require_checksum(written: object, found: str) -> None:
    """Require that a checksum is the one that was written.

    Raises:
        ValueError: If it is not.
    """
    if written != found:
        raise ValueError("its checksum differs")


@contextlib.contextmanager
def damage(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what reading a damaged file raises into one message.

    Args:
        path: The file.
        errors: What damage raises.

    Raises:
        DamagedFileError: Naming the file and the reason.
    """
    try:
        yield
    except errors as error:
        if isinstance(error, FileNotFoundError):
            raise
        reason = " ".join(f"{error}".split()) or type(error).__name__
        raise DamagedFileError(f"{path}: damaged: {reason}") from error
