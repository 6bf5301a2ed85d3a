"""Names, shapes and types of the tensors in a GGUF file, from its header alone.

The package ``gguf`` reads all of a file's metadata into Python objects first, which takes seconds
for a large vocabulary.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_STRING, _ARRAY = 8, 9
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Of the values of metadata, by type; strings and arrays are of any length."""

_MAX_DIMENSIONS, _MAX_NAME = 8, 2**16


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Args:
        kind: Its type in GGML's numbers.
        dimensions: The fastest first.
    """

    name: str
    kind: int
    dimensions: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.dimensions)


def read_tensors(path: Path) -> list[StoredTensor]:
    """Return the tensors of a GGUF file of version 2 or 3; ValueError if it is none, or damaged."""
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF" or _integer(stream, "<I") not in (2, 3):
                raise ValueError(f"{path} is not a GGUF file of version 2 or 3")
            tensors, fields = _integer(stream, "<Q"), _integer(stream, "<Q")
            for _ in range(fields):
                _skip(stream, _integer(stream, "<Q"))
                _skip_value(stream, _integer(stream, "<I"))
            return list(_tensors(stream, tensors))
    except (EOFError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} has a damaged header") from error


def _tensors(stream: BinaryIO, count: int) -> Iterator[StoredTensor]:
    for _ in range(count):
        length = _integer(stream, "<Q")
        if length > _MAX_NAME:
            raise EOFError
        name = _read(stream, length).decode("utf-8", "replace")
        rank = _integer(stream, "<I")
        if rank > _MAX_DIMENSIONS:
            raise EOFError
        dimensions = tuple(_integer(stream, "<Q") for _ in range(rank))
        kind = _integer(stream, "<I")
        _skip(stream, 8)  # Where its data begin.
        yield StoredTensor(name, kind, dimensions)


def _skip_value(stream: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _skip(stream, _integer(stream, "<Q"))
    elif kind == _ARRAY:
        inner, count = _integer(stream, "<I"), _integer(stream, "<Q")
        if inner in (_STRING, _ARRAY):
            for _ in range(count):
                _skip_value(stream, inner)
        else:
            _skip(stream, count * _VALUE_BYTES[inner])
    else:
        _skip(stream, _VALUE_BYTES[kind])


def _skip(stream: BinaryIO, count: int) -> None:
    stream.seek(count, 1)


def _integer(stream: BinaryIO, layout: str) -> int:
    value: int = struct.unpack(layout, _read(stream, struct.calcsize(layout)))[0]
    return value


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data
