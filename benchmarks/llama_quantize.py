"""llama.cpp's library, called as ``llama-quantize`` calls it: the wheel has no programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader
from qsearch_coalora.export.llama_library import load_library

FILE_TYPES = {
    "F32": 0,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q2_K": 10,
    "Q3_K_S": 11,
    "Q3_K_M": 12,
    "Q3_K_L": 13,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "IQ2_XXS": 19,
    "IQ3_XXS": 23,
    "IQ4_NL": 25,
    "IQ3_S": 26,
    "IQ3_M": 27,
    "IQ4_XS": 30,
    "MXFP4_MOE": 38,
}
"""Numbers of ``llama_ftype``, which the command line of llama-quantize calls presets."""


def quantize(
    source: Path,
    to: Path,
    preset: str,
    matrix: Mapping[str, npt.NDArray[np.float32]] | None = None,
    types: Mapping[str, str] | None = None,
    pure: bool = False,
) -> None:
    """Quantize a GGUF file on one thread.

    Args:
        source: The file.
        to: The new file.
        preset: One of :data:`FILE_TYPES`.
        matrix: The importance matrix: mean squares of each tensor's inputs, by its name.
        types: ggml's types by pattern of tensor names, for tensors that the preset does not decide.
        pure: Whether all weights have the preset's own type, as far as their rows take it.

    Raises:
        RuntimeError: If llama.cpp refuses.
    """
    ffi, library = load_library()
    params: Any = ffi.new("llama_model_quantize_params *")
    params[0] = library.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = FILE_TYPES[preset], 1, True
    params.pure = pure
    # What a structure points to must live as long as the call.
    names = [ffi.new("char[]", pattern.lower().encode()) for pattern in types or {}]
    overrides = ffi.new("struct llama_model_tensor_override[]", len(names) + 1)
    for entry, name, kind in zip(overrides, names, (types or {}).values(), strict=False):
        entry.pattern, entry.type = name, GGMLQuantizationType[kind.upper()].value
    params.tt_overrides = overrides
    rows = ffi.new("struct llama_model_imatrix_data[]", len(matrix or {}) + 1)
    kept = []
    for entry, (tensor, values) in zip(rows, (matrix or {}).items(), strict=False):
        kept += [ffi.new("char[]", tensor.encode()), ffi.from_buffer("float[]", values)]
        entry.name, entry.data, entry.size = kept[-2], kept[-1], len(values)
    if matrix:
        params.imatrix = rows
    code = library.llama_model_quantize(str(source).encode(), str(to).encode(), params)
    if code:
        to.unlink(missing_ok=True)
        raise RuntimeError(f"llama_model_quantize returned {code}")


def types_of(path: Path) -> dict[str, str]:
    """Return the ggml type of each matrix in a file, by the tensor's name."""
    return {
        tensor.name: tensor.tensor_type.name
        for tensor in GGUFReader(path).tensors
        if len(tensor.shape) == 2
    }
