"""Relative squared errors of the layers' weights, on whole weights and on samples of their rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qsearch_quantizers.integer.quantizer import Integer
from torch import Tensor

from qsearch.models.quantization_error import quantization_errors
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.layers import LayerSpec
from tests.coalora.conftest import RoundingQuantizer


def moment(features: int, seed: int) -> Tensor:
    """The second moment of inputs of unequal directions."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=draw)
    inputs = torch.randn(300, features, generator=draw) @ mixing
    return inputs.T @ inputs / 300


def gptq() -> Integer:
    return Integer(Integer.Options(bits=(3,), group_size=(32,), rounding="gptq"))


class ForLayers(RoundingQuantizer):
    """Notes which layers it is asked for, with the shapes of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[LayerSpec, tuple[int, ...]]] = []

    def quantize_layer(
        self,
        weight: Tensor,
        configuration: LayerConfiguration,
        layer: LayerSpec,
        moment: Tensor | None,
    ) -> QuantizedTensor:
        assert moment is None
        self.asked.append((layer, tuple(weight.shape)))
        return self.quantize(weight, configuration)


def test_errors_match_their_definition_on_whole_weights(quantizer) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(8, 16), 5 * torch.randn(12, 16), torch.randn(4, 8)]
    configurations = [LayerConfiguration({"bits": bits, "scale": "row"}) for bits in (2, 4)]
    errors = quantization_errors(weights, quantizer, configurations)
    for row, weight in enumerate(weights):
        for column, layer_configuration in enumerate(configurations):
            restored = quantizer.dequantize(quantizer.quantize(weight, layer_configuration))
            exact = (weight - restored).square().sum() / weight.square().sum()
            assert errors[row, column] == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("by_inputs", [False, True])
def test_errors_of_sampled_rows_are_repeatable_and_near_those_of_the_whole(
    by_inputs: bool, quantizer
) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(512, 64), torch.randn(512, 64)]
    moments = [moment(64, 0)] * 2 if by_inputs else None
    plugin = gptq() if by_inputs else quantizer
    configurations = [plugin.choices().layer_configurations[-1]]
    whole = quantization_errors(weights, plugin, configurations, moments=moments)
    sampled, again = (
        quantization_errors(weights, plugin, configurations, 8192, moments) for _ in range(2)
    )
    assert np.array_equal(sampled, again)
    assert not np.array_equal(sampled, whole)
    np.testing.assert_allclose(sampled, whole, rtol=0.2)


def test_layers_of_one_width_are_rounded_each_by_its_own_inputs() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    moments = [moment(64, 0), torch.eye(64)]
    chosen = gptq().choices().layer_configurations
    errors = quantization_errors([weight] * 2, gptq(), chosen, moments=moments)
    alone = [quantization_errors([weight], gptq(), chosen, moments=[one]) for one in moments]
    assert np.array_equal(errors, np.concatenate(alone))
    assert errors[0, 0] != errors[1, 0]


def test_a_quantizer_that_asks_for_layers_gets_those_of_weights_and_of_samples(
    make_trainer, make_configuration
) -> None:
    plugin = ForLayers()
    trainer = make_trainer(plugin=plugin)
    chosen = make_configuration(trainer, 0)
    adapted = trainer.study.adapted
    for position, layer in enumerate(trainer.layers()):
        plugin.asked.clear()
        adapted.weights.quantized(position, chosen[layer.name])
        adapted.weights.approximated(
            position, adapted.weights.originals[position], chosen[layer.name]
        )
        assert plugin.asked == [(layer, layer.shape)] * 2
    plugin.asked.clear()
    trainer.quantization_error(plugin.choices().layer_configurations[:1])
    assert sorted(layer.name for layer, _ in plugin.asked) == sorted(
        layer.name for layer in trainer.layers()
    )
