"""Checks of a quantizer that knows which layer a weight is of."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.plugins.quantizer_capabilities import SupportsLayers, quantize_weight
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.testing.comparison import assert_refused, assert_same_tensors
from qsearch.testing.quantizer.base import QuantizerChecks, made_again
from qsearch.testing.samples import normal_weight, quantize

LAYERS = (
    LayerSpec("model.layers.0.self_attn.q_proj", "query", 0, (16, 200)),
    LayerSpec("model.layers.11.mlp.down_proj", "down", 11, (16, 200)),
    LayerSpec("encoder.unusual", "unusual", 3, (16, 200)),
)
"""The last with a role that no quantizer knows."""


class LayerChecks(QuantizerChecks):
    """A layer changes values of tensors alone, and any layer will do."""

    def test_a_layers_tensors_are_of_the_same_kind_as_those_of_any_weight(self) -> None:
        quantizer = self._for_layers()
        for weight, configuration, layer in _cases(self, quantizer):
            expected = quantize(quantizer, weight, configuration)
            actual = _quantized(quantizer, weight, configuration, layer)
            what = f"{layer.name} with {configuration}"
            assert actual.shape == tuple(weight.shape), what
            assert actual.configuration == configuration, what
            kinds = [
                {name: (tensor.shape, tensor.dtype) for name, tensor in each.tensors.items()}
                for each in (actual, expected)
            ]
            assert kinds[0] == kinds[1], f"shapes and types of tensors: {what}"

    def test_a_layers_weight_comes_back_near_to_what_it_was(self) -> None:
        quantizer = self._for_layers()
        for weight, configuration, layer in _cases(self, quantizer):
            restored = quantizer.dequantize(_quantized(quantizer, weight, configuration, layer))
            error = torch.linalg.norm(restored - weight) / torch.linalg.norm(weight)
            assert error < 1, f"relative error of {layer.name} with {configuration}"

    def test_equal_weights_of_a_layer_give_equal_tensors(self) -> None:
        quantizer = self._for_layers()
        other = made_again(quantizer)
        for weight, configuration, layer in _cases(self, quantizer):
            first = _quantized(quantizer, weight, configuration, layer).tensors
            again = _quantized(other, weight, configuration, layer).tensors
            assert_same_tensors(again, first, f"again, {layer.name} with {configuration}")

    def test_layer_configurations_of_others_are_refused_for_layers_too(self) -> None:
        quantizer = self._for_layers()
        wrong = LayerConfiguration({"no_such_knob": 1})
        call = partial(_quantized, quantizer, normal_weight(16, 200), wrong, LAYERS[0])
        assert_refused(call, str(wrong))

    def _for_layers(self) -> Quantizer:
        quantizer = self.make()
        if not isinstance(quantizer, SupportsLayers):
            pytest.skip("this quantizer does not ask for layers")
        return quantizer


def _cases(
    checks: QuantizerChecks, quantizer: Quantizer
) -> Iterator[tuple[Tensor, LayerConfiguration, LayerSpec]]:
    """Yield weights of layers, whole and some rows, with layer configurations."""
    for layer in LAYERS:
        for configuration in checks.sample(quantizer):
            weight = normal_weight(*layer.shape)
            yield weight, configuration, layer
            yield weight[4:12], configuration, layer


def _quantized(
    quantizer: Quantizer, weight: Tensor, configuration: LayerConfiguration, layer: LayerSpec
) -> QuantizedTensor:
    moment = torch.eye(weight.shape[1])
    return quantize_weight(quantizer, weight, configuration, moment, layer)
