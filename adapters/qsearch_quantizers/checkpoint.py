"""Writing packed checkpoints: a model folder whose configured layers hold packed codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from qsearch.configuration import Configuration
from qsearch.errors import InputError
from qsearch.records import write_json
from qsearch_quantizers.packing import packed_tensors
from qsearch_quantizers.transformers_loading import (
    FORMAT_VERSION,
    QUANT_METHOD,
    build_quantizer,
    check_configuration,
    linear_layer,
)


def write_packed(
    model: PreTrainedModel,
    quantizer_name: str,
    quantizer_options: Mapping[str, Any],
    configuration: Configuration,
    directory: Path,
    tokenizer: Any = None,
) -> None:
    """Write a folder that ``from_pretrained`` loads once ``qsearch_quantizers`` is imported.

    It holds ``config.json`` with a ``quantization_config`` (method ``qsearch``), safetensors
    with the packed tensors of each configured layer beside all other weights in their own
    type, and the tokenizer. The model is left as it is.

    Args:
        model: The model with its floating-point weights and its head, without an adapter.
        quantizer_name: Name of the quantizer plugin.
        quantizer_options: Its options.
        configuration: Layer configurations by module path in the model.
        directory: Where to write; it is created if missing.
        tokenizer: The model's tokenizer, if it has one.

    Raises:
        InputError: If the quantizer, its options or a layer do not fit, or the folder cannot be
            written.
    """
    quantizer = build_quantizer(quantizer_name, quantizer_options)
    check_configuration(quantizer, configuration)
    tied = set(model.all_tied_weights_keys) | set(model.all_tied_weights_keys.values())
    state: dict[str, Tensor] = dict(model.state_dict())
    for name, layer in configuration.items():
        weight = linear_layer(model, name).weight
        if f"{name}.weight" in tied:
            raise InputError(
                f"layer {name!r} shares its weight with another module and cannot be packed"
            )
        packed = packed_tensors(quantizer.quantize(weight, layer), quantizer)
        del state[f"{name}.weight"]
        state.update({f"{name}.{key}": tensor for key, tensor in packed.items()})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(directory, state_dict=state)
        path = directory / "config.json"
        written = json.loads(path.read_text(encoding="utf-8"))
        written["quantization_config"] = {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSION,
            "quantizer": quantizer_name,
            "quantizer_options": dict(quantizer_options),
            "layers": {name: dict(layer) for name, layer in configuration.items()},
        }
        write_json(path, written)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {error}") from error
