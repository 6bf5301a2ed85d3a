"""Writing packed exports: a model folder whose configured layers hold packed codes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch.storage.files import write_json
from qsearch_quantizers.packed.bit_packing import packed_tensors
from qsearch_quantizers.packed.layers import FORMAT_VERSION, QUANT_METHOD, SETTINGS
from qsearch_quantizers.packed.verification import file_digests, settings_digest

MAX_SHARD_SIZE = "5GB"
"""A larger export is written as several files."""


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer of a packed export, by its module path.

    Its adapter, if any, has the factors A (rank × input features) and B (output features × rank),
    scaling included.
    """

    name: str
    weight: QuantizedTensor
    A: Tensor | None = None
    B: Tensor | None = None


def write_packed_layers(
    model: PreTrainedModel,
    state: Mapping[str, Tensor],
    quantizer: PackableQuantizer,
    quantizer_options: Mapping[str, Any],
    layers: Iterable[QuantizedLayer],
    directory: Path,
    tokenizer: Any = None,
) -> None:
    """Write a folder that ``from_pretrained`` loads once ``qsearch_quantizers`` is imported.

    It holds ``config.json`` with a ``quantization_config`` (method ``qsearch``), safetensors with
    the packed tensors and adapters of the layers next to all other weights in their own type, and
    the tokenizer. One layer is quantized at a time; no float weight is copied.

    The state has the model's floating-point tensors by name; those of ``layers`` are not written.

    Raises:
        InputError: If a layer shares its weight with another module, or adapters differ in rank.
    """
    tied = set(model.all_tied_weights_keys) | set(model.all_tied_weights_keys.values())
    tensors = dict(state)
    configuration: dict[str, dict[str, Any]] = {}
    ranks = set()
    for layer in layers:
        if f"{layer.name}.weight" in tied:
            raise InputError(
                f"layer {layer.name!r} shares its weight with another module and cannot be packed"
            )
        del tensors[f"{layer.name}.weight"]
        packed = packed_tensors(layer.weight, quantizer)
        if layer.A is not None and layer.B is not None:
            packed |= {"adapter_A": layer.A.contiguous(), "adapter_B": layer.B.contiguous()}
        tensors |= {f"{layer.name}.{key}": tensor for key, tensor in packed.items()}
        configuration[layer.name] = dict(layer.weight.configuration)
        ranks.add(0 if layer.A is None else layer.A.shape[0])
    if len(ranks) > 1:
        raise InputError(f"adapters of one packed export have one rank, not {sorted(ranks)}")
    settings = {
        "quantizer": quantizer.name,
        "quantizer_options": dict(quantizer_options),
        "layers": configuration,
        "adapter_rank": max(ranks, default=0),
    }
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, state_dict=tensors, max_shard_size=MAX_SHARD_SIZE)
    _add_settings(directory, settings)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)


def _add_settings(directory: Path, settings: Mapping[str, Any]) -> None:
    """Add settings and digests to the ``config.json`` that transformers wrote."""
    path = directory / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    digests = file_digests(directory.glob("model*.safetensors"))
    written["quantization_config"] = {
        "quant_method": QUANT_METHOD,
        "format_version": FORMAT_VERSION,
        **settings,
        "sha256": {**digests, SETTINGS: settings_digest(settings)},
    }
    write_json(path, written)
