"""What tensors of packed integers say of the layers that they are of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

Found = dict[str, dict[str, Any]]


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder's safetensors files."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def features_of(model: Path) -> dict[str, tuple[int, int]]:
    """Return output and input features of the model's matrices, by module path."""
    return {
        name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for name, tensor in tensors_of(model).items()
        if tensor.dim() == 2
    }


def gptq_layers(model: Path, out: Path) -> Found:
    """Return the layers of a checkpoint in GPTQ's layout: words of columns, zeros by group."""
    tensors, found = tensors_of(out), {}
    for path, (_, columns) in features_of(model).items():
        words = tensors.get(f"{path}.qweight")
        if words is None:
            continue
        groups = len(tensors[f"{path}.scales"])
        bits = 32 * len(words) // columns
        found[path] = {
            "bits": bits,
            "group_size": None if groups == 1 else columns // groups,
            "symmetric": _are_alike(tensors[f"{path}.qzeros"], bits),
        }
    return found


def _are_alike(words: Tensor, bits: int) -> bool:
    """Return whether all codes of packed zero points are the same, as those of symmetric ones."""
    stream = np.unpackbits(words.contiguous().numpy().view(np.uint8), axis=1, bitorder="little")
    codes = stream.reshape(len(words), -1, bits)
    return bool((codes == codes[:1, :1]).all())


def report(found: Mapping[str, Any]) -> None:
    """Print the last line."""
    print(json.dumps(found))
