"""Arrays too large to read at once: a safetensors file with a checksum, mapped into memory."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from qsearch.storage.bounded_reading import open_regular
from qsearch.storage.checksums import BLANK, CHECKSUM, damage
from qsearch.storage.files import write_atomically

Array = npt.NDArray[Any]
Facts = Mapping[str, str]

_TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
_MAX_HEADER = 2**20
_CHUNK = 2**22
_ZEROS = b"0" * 64


@dataclass(frozen=True)
class ArrayForm:
    """The element type of an array, as safetensors calls it, such as ``F32``, and its shape."""

    kind: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * _TYPES[self.kind].itemsize


def form_of(array: Array) -> ArrayForm:
    """Return the form of an array."""
    kinds = [name for name, kind in _TYPES.items() if kind == array.dtype]
    if not kinds:
        raise ValueError(f"arrays of {array.dtype} are not kept, only of {', '.join(_TYPES)}")
    return ArrayForm(kinds[0], array.shape)


def write_mapped(
    path: Path,
    forms: Mapping[str, ArrayForm],
    facts: Facts,
    fill: Callable[[Mapping[str, Array]], None],
) -> None:
    """Write arrays by name, and texts about them; ``fill`` writes their values, in any order."""
    entries, position = {}, 0
    for name, form in forms.items():
        offsets = [position, position + form.nbytes]
        entries[name] = {"dtype": form.kind, "shape": form.shape, "data_offsets": offsets}
        position = offsets[1]
    texts = {CHECKSUM: BLANK, **facts}
    header = json.dumps({"__metadata__": texts, **entries}).encode()
    header += b" " * (-len(header) % 8)
    start = 8 + len(header)

    def write(temporary: Path) -> None:
        with temporary.open("r+b") as stream:
            stream.write(len(header).to_bytes(8, "little") + header)
            stream.truncate(start + position)
        arrays = _mapped(temporary, forms, start, "r+")
        fill(arrays)
        for array in arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        with temporary.open("r+b") as stream:
            place = start_of_checksum(header) + 8
            digest = _digest(stream, place)
            stream.seek(place)
            stream.write(digest)

    write_atomically(path, write)


def read_mapped(path: Path) -> tuple[Facts, Mapping[str, Array]]:
    """Return the texts and the arrays of a file; the arrays are mapped, and never written to it.

    All of the file is read once, for its checksum. DamagedFileError if it is damaged.
    """
    with damage(path, KeyError, TypeError, ValueError, OSError, AttributeError):
        with open_regular(path) as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > _MAX_HEADER:
                raise ValueError("its header is too long")
            header = stream.read(size)
            place = start_of_checksum(header) + 8
            stream.seek(place)
            if stream.read(64) != _digest(stream, place):
                raise ValueError("its checksum differs")
            length = stream.seek(0, 2)
        entries = json.loads(header)
        facts = entries.pop("__metadata__")
        forms = {
            name: ArrayForm(entry["dtype"], tuple(entry["shape"]))
            for name, entry in entries.items()
        }
        if 8 + size + sum(form.nbytes for form in forms.values()) != length:
            raise ValueError("it has another length than its arrays")
        return facts, _mapped(path, forms, 8 + size, "c")


def start_of_checksum(header: bytes) -> int:
    """Return where the digits of the checksum begin in a header."""
    mark = f'"{CHECKSUM}": "sha256:'.encode()
    position = header.find(mark)
    if position < 0:
        raise ValueError("its checksum is missing")
    return position + len(mark)


def _digest(stream: BinaryIO, place: int) -> bytes:
    """Return the digest of a file with zeros where its checksum stands."""
    digest, position = hashlib.sha256(), 0
    stream.seek(0)
    # The checksum lies within the first megabyte, and a chunk is longer.
    while chunk := stream.read(_CHUNK):
        if position == 0:
            chunk = chunk[:place] + _ZEROS + chunk[place + 64 :]
        digest.update(chunk)
        position += len(chunk)
    return digest.hexdigest().encode()


def _mapped(path: Path, forms: Mapping[str, ArrayForm], start: int, mode: Any) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    position = start
    for name, form in forms.items():
        kind = _TYPES[form.kind]
        if form.nbytes:
            arrays[name] = np.memmap(path, kind, mode, position, form.shape)
        else:  # Nothing can be mapped of no bytes.
            arrays[name] = np.zeros(form.shape, kind)
        position += form.nbytes
    return arrays
