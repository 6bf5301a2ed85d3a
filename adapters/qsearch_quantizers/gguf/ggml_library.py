"""ggml's own functions, from the shared library in the package llama-cpp-py-sync."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsearch.errors import InputError
from qsearch_quantizers.gguf.ggml_types import TYPES, GGMLType
from qsearch_quantizers.libraries.optional import optional_module

_PATTERNS = ("libggml-base*.so*", "libggml-base*.dylib", "ggml-base*.dll")

_ROWS = 1 << 16
"""Weights that a thread is given at a time."""


def quantize_rows(kind: GGMLType, weight: Tensor, importance: Tensor | None) -> Tensor:
    """Quantize a weight by ggml, on as many threads as PyTorch has.

    Each row's result depends on that row alone.

    Args:
        kind: A type whose blocks divide the rows.
        weight: Finite float32 values (rows × columns) on the CPU, one after the other.
        importance: Weights of the squared errors of each column (columns), float32 on the CPU.
            Some types need it.

    Returns:
        Bytes (rows × bytes of a row), uint8.
    """
    rows, columns = weight.shape
    blocks = torch.empty(rows, kind.row_bytes(columns), dtype=torch.uint8)
    function = _library().ggml_quantize_chunk
    factors = None if importance is None else importance.data_ptr()

    def quantize(part: slice) -> None:
        source, target = weight[part], blocks[part]
        written = function(
            *(kind.number, source.data_ptr(), target.data_ptr()),
            *(0, len(source), columns, factors),
        )
        assert written == target.numel(), f"ggml wrote {written} bytes of {target.numel()}"

    step = max(1, _ROWS // columns)
    parts = [slice(first, first + step) for first in range(0, rows, step)]
    threads = min(torch.get_num_threads(), len(parts))
    if threads == 1:
        quantize(slice(None))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(quantize, parts))
    return blocks


def dequantize_rows(kind: GGMLType, blocks: Tensor) -> Tensor:
    """Return the weights (rows × columns, float32) of bytes (rows × bytes of a row) on the CPU."""
    source = blocks.contiguous()
    rows, width = source.shape
    weight = torch.empty(rows, width // kind.nbytes * kind.block, dtype=torch.float32)
    function = getattr(_library(), f"dequantize_row_{_own_name(kind)}")
    function(source.data_ptr(), weight.data_ptr(), weight.numel())
    return weight


def require_library() -> None:
    """Raise InputError if the package is not installed, or not one that fits."""
    _library()


def _own_name(kind: GGMLType) -> str:
    """Return the name that ggml's functions have for a type, such as ``q4_K`` and ``iq4_nl``."""
    return kind.name.lower().replace("_k", "_K")


@cache
def _library() -> Any:
    package = optional_module("llama_cpp_py_sync", "gguf")
    folder = Path(package.__file__).parent
    path = next(_libraries(folder), None)
    if path is None:
        raise InputError(f"quantizer 'gguf': {folder} has no library of ggml; install it again")
    library = ctypes.CDLL(str(path))
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_size.restype = ctypes.c_size_t
    for kind in TYPES.values():
        number = kind.number
        own = library.ggml_type_name(number), library.ggml_blck_size(number)
        if (*own, library.ggml_type_size(number)) != (
            *(_own_name(kind).encode(), kind.block, kind.nbytes),
        ):
            raise InputError(
                f"quantizer 'gguf': the ggml of {package.__name__} {package.__version__} knows"
                f" {kind.name} as {own}; install a version that this qsearch is tested with"
            )
        function = getattr(library, f"dequantize_row_{_own_name(kind)}")
        function.restype = None
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    chunk = library.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = (
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
    )
    return library


def _libraries(folder: Path) -> Iterator[Path]:
    for pattern in _PATTERNS:
        yield from sorted(folder.rglob(pattern))
