"""Safetensors files from a plan of their tensors: their exact size, and writing them in any order.

The bytes are those that the library ``safetensors`` would write. It needs all tensors of a file in
memory at once, and its size is known only when it is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import torch
from torch import Tensor

from qsearch.errors import InputError

Plan = Mapping[str, Tensor]
"""Tensors by name, on the meta device: shapes and types without values."""

_NAMES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of types, in the order in which a file has their tensors."""

_RANKS = {dtype: rank for rank, dtype in enumerate(_NAMES)}
_LENGTH = 8
"""Bytes that hold the length of the header, which is a multiple of them too."""


class Put(Protocol):
    """Writes a tensor of a plan to the file that it belongs to."""

    def __call__(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, which must be as planned."""
        ...


def planned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the plan of a tensor."""
    return torch.empty(shape, dtype=dtype, device="meta")


def file_bytes(plan: Plan) -> int:
    """Return the bytes of a file: header and tensors."""
    return len(_header(plan)[0]) + sum(tensor.nbytes for tensor in plan.values())


def split_plan(plan: Plan, max_bytes: int, pattern: str) -> dict[str, dict[str, Tensor]]:
    """Return the plan of each file, by its name; one file if its tensors take few enough bytes.

    The pattern is such as ``model{suffix}.safetensors``.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    split = split_state_dict_into_shards_factory(
        dict(plan),
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern=pattern,
        max_shard_size=max_bytes,
    )
    return {
        file: {name: plan[name] for name in names}
        for file, names in split.filename_to_tensors.items()
    }


@contextmanager
def tensor_files(directory: Path, files: Mapping[str, Plan]) -> Iterator[Put]:
    """Give a function that writes each planned tensor, by its name, into one of some files.

    Raises:
        InputError: If a tensor is not as planned, or one was not written.
    """
    places: dict[str, tuple[BinaryIO, int, Tensor]] = {}
    with ExitStack() as stack:
        for file, plan in files.items():
            stream = stack.enter_context((directory / file).open("wb"))
            header, offsets = _header(plan)
            stream.write(header)
            places |= {
                name: (stream, len(header) + offsets[name], tensor) for name, tensor in plan.items()
            }

        def put(name: str, tensor: Tensor) -> None:
            stream, offset, expected = places.pop(name)
            if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
                raise InputError(
                    f"tensor {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, and was"
                    f" planned as {expected.dtype} of shape {tuple(expected.shape)}"
                )
            if tensor.numel():
                flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
                stream.seek(offset)
                stream.write(flat.numpy().data)

        yield put
        if places:
            raise InputError(f"tensors that were planned are not written: {sorted(places)[:3]}")


def longest_header(plan: Plan, nbytes: int) -> int:
    """Return the most bytes that a file's header takes, whose tensors take up to some bytes."""
    entries = {name: _entry(tensor, nbytes, nbytes) for name, tensor in plan.items()}
    return len(_encoded(entries))


def _header(plan: Plan) -> tuple[bytes, dict[str, int]]:
    """Return what precedes the tensors in a file, and where each begins behind it."""
    entries: dict[str, object] = {}
    offsets: dict[str, int] = {}
    offset = 0
    for name in sorted(plan, key=lambda name: (_RANKS[plan[name].dtype], name)):
        tensor = plan[name]
        offsets[name], offset = offset, offset + tensor.nbytes
        entries[name] = _entry(tensor, offsets[name], offset)
    return _encoded(entries), offsets


def _entry(tensor: Tensor, begin: int, end: int) -> dict[str, object]:
    shape = list(tensor.shape)
    return {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": [begin, end]}


def _encoded(entries: Mapping[str, object]) -> bytes:
    header = {"__metadata__": {"format": "pt"}, **entries}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text
