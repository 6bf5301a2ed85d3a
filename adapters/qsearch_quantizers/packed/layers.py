"""The quantizer and the layers that a packed export names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from qsearch.errors import InputError
from qsearch.models.tables import embedding_scale, output_head
from qsearch.plugins.registry import load_plugin
from qsearch.plugins.tensor_layout import Decoder, PackableQuantizer
from qsearch.space.configuration import Configuration
from qsearch_quantizers.packed.weight import PackedModule

QUANT_METHOD = "qsearch"
FORMAT_VERSION = 3
SETTINGS = "quantization_config"
"""The section of ``config.json``, and where its ``sha256`` has the digest of the other fields."""


_DECODERS = {
    "bitsandbytes": "libraries.decoder:BitsAndBytesDecoder",
    "compressed-tensors": "compressed_tensors.decoder:CompressedTensorsDecoder",
    "gguf": "gguf.decoder:GGUFDecoder",
    "hqq": "libraries.decoder:HQQDecoder",
    "integer": "integer.decoder:IntegerDecoder",
    "normal-float": "normal_float.decoder:NormalFloatDecoder",
    "torchao": "libraries.decoder:TorchAODecoder",
}
"""By quantizer, what reads its weights and imports nothing of a search."""


def build_decoder(name: str, options: Mapping[str, Any]) -> Decoder:
    """Construct what reads the weights of a quantizer with some options.

    That of another package is the quantizer itself.

    Raises:
        InputError: If the quantizer is unknown, its options are wrong, or it has no layout.
    """
    section = f"{SETTINGS}.quantizer_options"
    if name not in _DECODERS:
        return _plugin(name, options, section)
    module, _, own = _DECODERS[name].partition(":")
    plugin = getattr(importlib.import_module(f"qsearch_quantizers.{module}"), own)
    try:
        decoder: Decoder = plugin(options)
    except InputError as error:
        raise InputError(f"config.json: {section}.{error}") from error
    return decoder


def _plugin(name: str, options: Mapping[str, Any], section: str) -> PackableQuantizer:
    plugin = load_plugin("quantizers", name)
    from qsearch.spec.validation import validate  # It imports pydantic, as such a plugin does.

    quantizer = plugin(validate(plugin.Options, options, "config.json", section))
    if not isinstance(quantizer, PackableQuantizer):
        raise InputError(
            f"quantizer {name!r} has no layout() and cannot be packed;"
            " see qsearch.plugins.tensor_layout.PackableQuantizer"
        )
    return quantizer


def check_configuration(decoder: Decoder, configuration: Configuration) -> None:
    """Check that every layer configuration is one of the quantizer's.

    Raises:
        InputError: If one is not; the message names the layer.
    """
    choices = decoder.choices()
    for name, layer in configuration.items():
        try:
            choices.index(layer)
        except InputError as error:
            raise InputError(f"layer {name!r}: {error}") from error


def packable_layer(model: nn.Module, name: str) -> nn.Linear | nn.Embedding:
    """Return a model's linear layer or embedding by module path.

    Raises:
        InputError: If there is no such module, it is neither, or it is packed already.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"{type(model).__name__} has no layer {name!r}") from error
    if not isinstance(module, nn.Linear | nn.Embedding) or isinstance(module, PackedModule):
        raise InputError(
            f"layer {name!r} is a {type(module).__name__}; only torch.nn.Linear and Embedding can"
            " be packed"
        )
    return module


def scale_of(embedding: nn.Embedding, name: str) -> float:
    """Return what an embedding multiplies its rows by.

    Raises:
        InputError: If its class computes something else, which packed rows would lack.
    """
    scale = embedding_scale(embedding)
    if scale is None:
        raise InputError(
            f"layer {name!r} is a {type(embedding).__name__}, which does more than to look rows up"
            " and scale them, so it cannot be packed; set space.embeddings: false"
        )
    return scale


def tied_names(tied: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return the weights that are one with a layer's, of a model's ``all_tied_weights_keys``."""
    own = f"{name}.weight"
    source = tied.get(own, own)
    alike = {source, *(target for target, other in tied.items() if other == source)}
    return tuple(sorted(alike - {own}))


def is_output_head(model: nn.Module, name: str) -> bool:
    """Return whether a layer predicts tokens; it has no adapter in a packed export."""
    head = output_head(model)
    return head is not None and head[0] == name
