"""Writing packed exports: a model folder whose configured layers hold packed codes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch.storage.files import write_json
from qsearch_quantizers.packed.bit_packing import packed_tensors
from qsearch_quantizers.packed.layers import (
    FORMAT_VERSION,
    QUANT_METHOD,
    SETTINGS,
    is_output_head,
    scale_of,
    tied_names,
)
from qsearch_quantizers.packed.verification import file_digests, settings_digest

MAX_SHARD_SIZE = "5GB"
"""A larger export is written as several files."""


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer of a packed export, by its module path.

    Its adapter, if any, has the factors A (rank × input features) and B (output features × rank),
    scaling included. A rank of 0 is none.
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

    An output head that is tied to an embedding is not written: it computes with the embedding's
    tensors. Neither has an adapter.

    Raises:
        InputError: If a layer shares its weight with another module than that, an embedding does
            more than to look rows up, or adapters differ in rank.
    """
    tensors = dict(state)
    configuration: dict[str, dict[str, Any]] = {}
    ranks = set()
    for layer in layers:
        for name in (f"{layer.name}.weight", *_tied_to(model, layer.name)):
            tensors.pop(name)
        packed = packed_tensors(layer.weight, quantizer)
        rank = 0 if layer.A is None else layer.A.shape[0]
        if rank and layer.A is not None and layer.B is not None:
            packed |= {"adapter_A": layer.A.contiguous(), "adapter_B": layer.B.contiguous()}
        tensors |= {f"{layer.name}.{key}": tensor for key, tensor in packed.items()}
        configuration[layer.name] = dict(layer.weight.configuration)
        if not _is_table(model, layer.name):
            ranks.add(rank)
        elif rank:
            raise InputError(f"layer {layer.name!r} cannot have an adapter in a packed export")
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


def _is_table(model: PreTrainedModel, name: str) -> bool:
    return isinstance(model.get_submodule(name), nn.Embedding) or is_output_head(model, name)


def _tied_to(model: PreTrainedModel, name: str) -> tuple[str, ...]:
    """Return the tensors that a layer's weight is tied to, which must be an output head's."""
    module, others = model.get_submodule(name), tied_names(model.all_tied_weights_keys, name)
    if isinstance(module, nn.Embedding):
        scale_of(module, name)
        if all(is_output_head(model, other.removesuffix(".weight")) for other in others):
            return others
    if others:
        raise InputError(
            f"layer {name!r} shares its weight with another module and cannot be packed"
        )
    return ()


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
