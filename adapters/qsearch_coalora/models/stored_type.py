"""The type in which a model's checkpoint stores its weights, and in which its exports do."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qsearch_quantizers.packed.tensor_headers import tensor_headers

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.models.loading import load_config
from qsearch_coalora.models.source import locate_model, source_folder

if TYPE_CHECKING:
    import torch

_SIXTEEN_BITS = {"F16": "float16", "BF16": "bfloat16", "float16": "float16", "bfloat16": "bfloat16"}
"""16-bit floating types, as safetensors and as configurations of transformers name them."""


def stored_type(model: ModelSpec) -> torch.dtype:
    """Return the checkpoint's own 16-bit floating type where it has one, else bfloat16.

    Its type is that of most of its elements. Weights of a GGUF file are dequantized: they have no
    type of their own.
    """
    import torch

    source = locate_model(model)
    name = None
    if source.gguf_file is None:
        folder = source_folder(source)
        name = _main_type(folder) if folder is not None else None
        if name is None:  # Not safetensors: what the configuration says.
            config = load_config(model)[0]
            name = str(getattr(config, "dtype", None)).removeprefix("torch.")
    dtype: torch.dtype = getattr(torch, _SIXTEEN_BITS.get(name or "", "bfloat16"))
    return dtype


def _main_type(folder: Path) -> str | None:
    """Return the type that most elements in a folder's safetensors have, None without files."""
    counts: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        with suppress(InputError):  # Whoever loads the model says so.
            for _, kind, shape in tensor_headers(path):
                counts[kind] += math.prod(shape)
    return counts.most_common(1)[0][0] if counts else None
