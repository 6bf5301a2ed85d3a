"""GGUF files of further configurations, made from one that was exported.

An export reads the metadata of the original, a large vocabulary among them, and compares all
weights with the original's; that takes longer than to quantize them. A study that evaluates files
exports one, and writes others with other blocks in the same places.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from qsearch_quantizers.gguf.ggml_types import TYPES

from qsearch_coalora.export.ggml_weights import layer_blocks, planned_type
from qsearch_coalora.export.job import AdapterJob
from qsearch_coalora.models.gguf_header import Header, StoredTensor, read_header

_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FileTemplate:
    """An exported file, and by the name of a tensor the layer in it, with the order of its rows."""

    path: Path
    header: Header
    layers: dict[str, tuple[int, npt.NDArray[np.int64]]]

    def write(self, job: AdapterJob, path: Path) -> None:
        """Write the file of another configuration: what an export would write, byte for byte."""
        content = np.memmap(self.path, dtype=np.uint8, mode="r")
        kinds = {
            name: TYPES[planned_type(job, position, "gguf")]
            for name, (position, _) in self.layers.items()
        }
        sizes = _sizes(self.header, len(content))
        with path.open("wb") as stream:
            stream.write(content[: self.header.fields_end].tobytes())
            offset, places = 0, []
            for tensor, size in zip(self.header.tensors, sizes, strict=True):
                kind = kinds.get(tensor.name)
                number = tensor.kind if kind is None else kind.number
                if kind is not None:
                    size = kind.row_bytes(tensor.dimensions[0]) * tensor.dimensions[1]
                stream.write(_described(tensor, number, offset))
                places.append(offset)
                offset += -(-size // self.header.alignment) * self.header.alignment
            start = -(-stream.tell() // self.header.alignment) * self.header.alignment
            for tensor, size, place in zip(self.header.tensors, sizes, places, strict=True):
                stream.write(bytes(start + place - stream.tell()))
                if tensor.name in self.layers:
                    position, order = self.layers[tensor.name]
                    stream.write(layer_blocks(job, position).numpy()[order].tobytes())
                else:
                    first = self.header.data_start + tensor.offset
                    stream.write(content[first : first + size].tobytes())
            stream.write(bytes(start + offset - stream.tell()))


def template_of(job: AdapterJob, path: Path) -> FileTemplate | None:
    """Return the template that the file of a configuration is, or None if its layers are not clear.

    A layer is the tensor that has its rows, in whatever order.
    """
    header = read_header(path)
    content = np.memmap(path, dtype=np.uint8, mode="r")
    rows_of: dict[bytes, list[tuple[str, _Bytes]]] = {}
    for tensor, rows in _matrices(header, content):
        rows_of.setdefault(_digest(rows), []).append((tensor.name, rows))
    layers: dict[str, tuple[int, npt.NDArray[np.int64]]] = {}
    for position in range(len(job.layers)):
        blocks = layer_blocks(job, position).numpy()
        matching = rows_of.get(_digest(blocks), [])
        if len(matching) != 1:
            return None
        name, rows = matching[0]
        order = np.empty(len(rows), dtype=np.int64)
        order[_sorted(rows)] = _sorted(blocks)
        if name in layers or not (blocks[order] == rows).all():
            return None
        layers[name] = position, order
    return FileTemplate(path, header, layers)


def _matrices(header: Header, content: _Bytes) -> Iterator[tuple[StoredTensor, _Bytes]]:
    """Yield the tensors of ggml's quantized types, as bytes (rows × bytes of a row)."""
    by_number = {kind.number: kind for kind in TYPES.values()}
    for tensor in header.tensors:
        kind = by_number.get(tensor.kind)
        if kind is None or len(tensor.dimensions) != 2:
            continue
        columns, rows = tensor.dimensions
        width, first = kind.row_bytes(columns), header.data_start + tensor.offset
        yield tensor, content[first : first + rows * width].reshape(rows, width)


def _sizes(header: Header, total: int) -> list[int]:
    """Return the bytes of each tensor, with what fills them up to the next one."""
    places = [header.data_start + tensor.offset for tensor in header.tensors]
    ends = sorted({*places, total})
    return [ends[ends.index(place) + 1] - place for place in places]


def _described(tensor: StoredTensor, kind: int, offset: int) -> bytes:
    name, dimensions = tensor.name.encode(), tensor.dimensions
    layout = f"<Q{len(name)}sI{len(dimensions)}QIQ"
    return struct.pack(layout, len(name), name, len(dimensions), *dimensions, kind, offset)


def _sorted(rows: _Bytes) -> npt.NDArray[np.int64]:
    """Return the order that sorts rows of bytes; equal ones stay as they are."""
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1])))[:, 0]
    order: npt.NDArray[np.int64] = np.argsort(whole, kind="stable")
    return order


def _digest(rows: _Bytes) -> bytes:
    """Return what rows have in common with the same rows in another order."""
    digest = hashlib.sha256(str(rows.shape).encode())
    digest.update(rows[_sorted(rows)].tobytes())
    return digest.digest()
