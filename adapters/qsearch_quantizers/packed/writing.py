"""Writing packed checkpoints: a model folder whose configured layers hold packed codes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch.space.configuration import Configuration
from qsearch.storage.files import write_json
from qsearch_quantizers.packed.bit_packing import packed_tensors
from qsearch_quantizers.packed.layers import (
    FORMAT_VERSION,
    QUANT_METHOD,
    SETTINGS,
    build_quantizer,
    check_configuration,
    linear_layer,
)
from qsearch_quantizers.packed.verification import file_digests, settings_digest

MAX_SHARD_SIZE = "5GB"
"""A larger checkpoint is written as several files."""


@dataclass(frozen=True)
class QuantizedLayer:
    """One layer of a checkpoint.

    Args:
        name: Module path in the model.
        weight: The quantized weight.
        A: Adapter's first factor (rank × input features), or None without an adapter.
        B: Its second (output features × rank), scaling included.
    """

    name: str
    weight: QuantizedTensor
    A: Tensor | None = None
    B: Tensor | None = None


def quantized_layers(
    model: PreTrainedModel, quantizer: PackableQuantizer, configuration: Configuration
) -> Iterator[QuantizedLayer]:
    """Quantize a model's weights one after the other.

    Raises:
        InputError: If a layer configuration is not one of the quantizer's, or a layer is missing
            or not linear.
    """
    check_configuration(quantizer, configuration)
    for name, layer in configuration.items():
        weight = linear_layer(model, name).weight
        yield QuantizedLayer(name, quantizer.quantize(weight, layer))


def write_packed(
    model: PreTrainedModel,
    quantizer_name: str,
    quantizer_options: Mapping[str, Any],
    configuration: Configuration,
    directory: Path,
    tokenizer: Any = None,
) -> None:
    """Quantize a model and write it; see :func:`write_packed_layers`.

    The model is left as it is.

    Raises:
        InputError: If the quantizer, its options or a layer do not fit, or the folder cannot be
            written.
    """
    quantizer = build_quantizer(quantizer_name, quantizer_options)
    for name in configuration:
        linear_layer(model, name)
    layers = quantized_layers(model, quantizer, configuration)
    write_packed_layers(
        model, model.state_dict(), quantizer, quantizer_options, layers, directory, tokenizer
    )


def write_packed_layers(
    model: PreTrainedModel,
    state: Mapping[str, Tensor],
    quantizer: PackableQuantizer,
    quantizer_options: Mapping[str, Any],
    layers: Iterable[QuantizedLayer],
    directory: Path,
    tokenizer: Any = None,
    max_shard_size: str = MAX_SHARD_SIZE,
) -> None:
    """Write a folder that ``from_pretrained`` loads once ``qsearch_quantizers`` is imported.

    It holds ``config.json`` with a ``quantization_config`` (method ``qsearch``), safetensors with
    the packed tensors and adapters of the layers next to all other weights in their own type, and
    the tokenizer. One layer is quantized at a time; no float weight is copied.

    Args:
        model: The model, for its architecture.
        state: Its floating-point tensors by name; those of ``layers`` are not written.
        quantizer: A plugin.
        quantizer_options: Its options.
        layers: Each is written, and then let go.
        directory: Created if missing.
        tokenizer: The model's, if it has one.
        max_shard_size: Where a file ends and the next begins, such as ``5GB``.

    Raises:
        InputError: If a layer shares its weight with another module, adapters differ in rank, or
            the folder cannot be written.
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
        raise InputError(f"adapters of one checkpoint have one rank, not {sorted(ranks)}")
    settings = {
        "quantizer": quantizer.name,
        "quantizer_options": dict(quantizer_options),
        "layers": configuration,
        "adapter_rank": max(ranks, default=0),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(directory, state_dict=tensors, max_shard_size=max_shard_size)
        _add_settings(directory, settings)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {error}") from error


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
