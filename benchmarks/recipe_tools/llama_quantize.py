"""llama.cpp's library, called as ``llama-quantize`` calls it: the wheel has no programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFReader

from benchmarks.recipe_tools.packed import report

BASE = "Q8_0"
_FILE_TYPES = {"Q4_0": 2, "Q8_0": 7}
"""Numbers of ``llama_ftype``, for what a recipe does not name."""


def main(model: str, recipe: str, out: str) -> None:
    """Quantize the GGUF file of a model's folder as a recipe says; report types of tensors."""
    path = Path(out) / "model.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    quantize(Path(model) / "model.gguf", Path(recipe) / "tensor-types.txt", path)
    report(types_of(path))


def quantize(source: Path, types: Path, to: Path, base: str = BASE) -> None:
    """Quantize a GGUF file by a file of tensor types."""
    from llama_cpp_py_sync import _cffi_bindings as bindings

    library, ffi = bindings.get_lib(), bindings.get_ffi()
    rules = [item.split("=", 1) for item in types.read_text().split()]
    # The names must live as long as the call.
    names = [ffi.new("char[]", pattern.lower().encode()) for pattern, _ in rules]
    overrides = ffi.new("struct llama_model_tensor_override[]", len(rules) + 1)
    for place, (name, (_, kind)) in enumerate(zip(names, rules, strict=True)):
        overrides[place].pattern = name
        overrides[place].type = GGMLQuantizationType[kind.upper()].value
    overrides[len(rules)].pattern = ffi.NULL
    params: Any = ffi.new("llama_model_quantize_params *")
    params[0] = library.llama_model_quantize_default_params()
    params.ftype = _FILE_TYPES[base]
    params.nthread = 1
    params.tt_overrides = overrides
    code = library.llama_model_quantize(str(source).encode(), str(to).encode(), params)
    if code:
        raise RuntimeError(f"llama_model_quantize returned {code}")


def types_of(path: Path) -> dict[str, str]:
    """Return the ggml type of each matrix in a file, by the tensor's name."""
    return {
        tensor.name: tensor.tensor_type.name
        for tensor in GGUFReader(path).tensors
        if len(tensor.shape) == 2
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
