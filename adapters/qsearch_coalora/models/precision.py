"""In which types a model's files store its weights, without loading them."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qsearch_quantizers.packed.tensor_headers import tensor_headers

from qsearch.errors import InputError
from qsearch.plugins.source_precision import SourcePrecision
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.models.digests import model_files
from qsearch_coalora.models.gguf_header import read_tensors
from qsearch_coalora.models.loading import import_library

_FLOATS = {
    "F64": ("float64", 64.0),
    "F32": ("float32", 32.0),
    "F16": ("float16", 16.0),
    "BF16": ("bfloat16", 16.0),
    "F8_E4M3": ("float8_e4m3", 8.0),
    "F8_E5M2": ("float8_e5m2", 8.0),
}
"""Types of weights in safetensors files, with their bits; tensors of integers are no weights."""
_IN_BLOCK = re.compile(r"(^|\.)[0-9]+\.")

Matrix = tuple[str, str, float, int]
"""Name, type, bits of a weight, and number of weights."""


def source_precision(model: ModelSpec) -> SourcePrecision | None:
    """Return the types of a model's weights; None if they are not here, or say nothing of it."""
    files = model_files(model)
    try:
        if files and files[0].suffix == ".gguf":
            return _summed(_gguf_matrices(files[0]))
        tensors = [path for path in files if path.suffix == ".safetensors"]
        if tensors:
            return _summed(matrix for path in tensors for matrix in _safetensors_matrices(path))
        # A pickle's tensors are known only when it is loaded; its configuration names their type.
        config = next((path for path in files if path.name == "config.json"), None)
        return _named(json.loads(config.read_text(encoding="utf-8")) if config else {})
    except (AttributeError, InputError, KeyError, OSError, TypeError, ValueError):
        return None  # What is wrong with a file is said when it is loaded.


def _gguf_matrices(path: Path) -> Iterator[Matrix]:
    constants = import_library("gguf").constants
    for tensor in read_tensors(path):
        if len([size for size in tensor.dimensions if size > 1]) >= 2:
            kind = constants.GGMLQuantizationType(tensor.kind)
            block, nbytes = constants.GGML_QUANT_SIZES[kind]
            name, bits = _FLOATS.get(kind.name, (kind.name, 8 * nbytes / block))
            yield tensor.name, name, bits, tensor.elements


def _safetensors_matrices(path: Path) -> Iterator[Matrix]:
    for name, kind, shape in tensor_headers(path):
        if len(shape) >= 2 and kind in _FLOATS:
            yield name, *_FLOATS[kind], math.prod(shape)


def _named(config: dict[str, Any]) -> SourcePrecision | None:
    name = str(config.get("dtype") or config.get("torch_dtype") or "")
    bits = dict(_FLOATS.values()).get(name)
    return None if bits is None else SourcePrecision((name,), (name,), bits)


def _summed(matrices: Iterable[Matrix]) -> SourcePrecision | None:
    """Return the types of matrices in blocks and of others, most weights first."""
    counts: dict[bool, defaultdict[str, int]] = {
        inside: defaultdict(int) for inside in (True, False)
    }
    weights, stored = 0, 0.0
    for name, kind, bits, count in matrices:
        inside = _IN_BLOCK.search(name) is not None
        counts[inside][kind] += count
        if inside:
            weights += count
            stored += bits * count
    if not weights:
        return None
    layers, others = (
        tuple(sorted(counts[inside], key=lambda kind: -counts[inside][kind]))
        for inside in (True, False)
    )
    return SourcePrecision(layers, others, stored / weights)
