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
_ALIGNMENT = 32
"""Of a file that does not say it."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Args:
        kind: Its type in GGML's numbers.
        dimensions: The fastest first.
        offset: Where its data begin, after those of all tensors do.
    """

    name: str
    kind: int
    dimensions: tuple[int, ...]
    offset: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.dimensions)


@dataclass(frozen=True)
class Header:
    """What precedes the data of tensors.

    Args:
        fields_end: Where the tensors' names begin, after the metadata.
        data_start: Where their data begin.
        alignment: Data begin at multiples of it.
    """

    tensors: list[StoredTensor]
    fields_end: int
    data_start: int
    alignment: int


def read_tensors(path: Path) -> list[StoredTensor]:
    """Return the tensors of a GGUF file of version 2 or 3; ValueError if it is none, or damaged."""
    return read_header(path).tensors


def read_header(path: Path) -> Header:
    """Return the header of a GGUF file of version 2 or 3; ValueError if it is none, or damaged."""
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF" or _integer(stream, "<I") not in (2, 3):
                raise ValueError(f"{path} is not a GGUF file of version 2 or 3")
            tensors, fields = _integer(stream, "<Q"), _integer(stream, "<Q")
            alignment = _ALIGNMENT
            for _ in range(fields):
                length = _integer(stream, "<Q")
                name = _read(stream, length) if length <= _MAX_NAME else b""
                _skip(stream, length - len(name))
                kind = _integer(stream, "<I")
                if name == b"general.alignment":
                    alignment = _integer(stream, "<I")
                else:
                    _skip_value(stream, kind)
            fields_end = stream.tell()
            found = list(_tensors(stream, tensors))
            data_start = -(-stream.tell() // alignment) * alignment
            return Header(found, fields_end, data_start, alignment)
    except (EOFError, KeyError, OverflowError, RecursionError, ZeroDivisionError) as error:
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
        yield StoredTensor(name, kind, dimensions, _integer(stream, "<Q"))


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
