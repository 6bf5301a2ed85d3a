"""A configuration's weights in a module, for as long as a block of code runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from qsearch.errors import InputError
from qsearch.models.discovery import backbone, linear_layers
from qsearch.models.tables import embedding_tables
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.quantizer_capabilities import SupportsLayers, quantize_weight
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.layers import LayerSpec

_MARK = "_qsearch_quantized"
"""An attribute of a layer that has quantized weights: quantizing them again would be an error."""


@contextmanager
def quantized_weights(
    model: nn.Module, configuration: Mapping[str, LayerConfiguration], quantizer: Quantizer
) -> Iterator[None]:
    """Put the dequantized weights of a configuration into a module; take them out again after it.

    Raises:
        InputError: If the module lacks a layer, or has quantized weights already.
    """
    require_original(model)
    layers = {name: _layer(model, name) for name in configuration}
    specs: dict[str, LayerSpec] = {}
    if isinstance(quantizer, SupportsLayers):
        for root in (backbone(model)[1], model):
            specs |= embedding_tables(root) | linear_layers(root)
    originals = {name: layer.weight.data for name, layer in layers.items()}
    for layer in layers.values():
        setattr(layer, _MARK, True)
    try:
        with torch.no_grad():
            for name, layer in layers.items():
                weight = originals[name]
                packed = quantize_weight(
                    quantizer, weight, configuration[name], None, specs.get(name)
                )
                layer.weight.data = quantizer.dequantize(packed).to(weight)
        yield
    finally:
        for name, layer in layers.items():
            layer.weight.data = originals[name]
            delattr(layer, _MARK)


def require_original(model: nn.Module) -> None:
    """Refuse a model that has quantized weights."""
    if any(hasattr(module, _MARK) for module in model.modules()):
        raise InputError(
            f"model {type(model).__name__} has quantized weights already; leave the other"
            " qsearch.quantized block first"
        )


def _layer(model: nn.Module, name: str) -> nn.Linear | nn.Embedding:
    """Return a layer by its path in the module, or in its part without a head."""
    for root in (model, backbone(model)[1]):
        try:
            layer = root.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(layer, nn.Linear | nn.Embedding):
            return layer
    raise InputError(
        f"model {type(model).__name__} has no linear layer or embedding {name!r}, which the"
        " configuration names"
    )
