"""Checks of what comes back when a weight is quantized and dequantized, and of the weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qsearch.testing.comparison import assert_same
from qsearch.testing.quantizer.base import SHAPES, QuantizerChecks
from qsearch.testing.samples import normal_weight, quantize, relative_error, round_trip

VIEWS = {
    "transposed": normal_weight(200, 16).t(),
    "part of a larger": normal_weight(40, 300)[3:19, 10:210],
}


class RoundTripChecks(QuantizerChecks):
    """A dequantized weight is float32, of its shape, on its device, and the caller's own."""

    @pytest.mark.parametrize("shape", SHAPES)
    def test_weights_of_any_shape_come_back_as_float32_of_that_shape(
        self, shape: tuple[int, int]
    ) -> None:
        quantizer = self.make()
        for configuration in self.sample(quantizer):
            restored = round_trip(quantizer, normal_weight(*shape), configuration)
            assert type(restored) is Tensor, configuration
            assert restored.shape == shape, configuration
            assert restored.dtype == torch.float32, configuration
            assert restored.device.type == "cpu", configuration
            assert restored.isfinite().all(), configuration

    @pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
    def test_where_the_weight_lies_in_memory_does_not_matter(self, view: Tensor) -> None:
        quantizer = self.make()
        for configuration in self.sample(quantizer):
            expected = round_trip(quantizer, view.contiguous(), configuration)
            assert_same(round_trip(quantizer, view, configuration), expected, str(configuration))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_weights_are_taken(self, dtype: torch.dtype) -> None:
        quantizer = self.make()
        weight = normal_weight(16, 200).to(dtype)
        for configuration in self.sample(quantizer):
            assert round_trip(quantizer, weight, configuration).dtype == torch.float32
            actual = relative_error(quantizer, weight, configuration)
            expected = relative_error(quantizer, weight.float(), configuration)
            self.assert_error("half precision", configuration, actual, expected)

    def test_the_weight_is_left_as_it_was_and_not_kept(self) -> None:
        quantizer = self.make()
        for configuration in self.sample(quantizer):
            weight = normal_weight(16, 200)
            quantized = quantize(quantizer, weight, configuration)
            assert_same(weight, normal_weight(16, 200), f"weight after quantize, {configuration}")
            restored = quantizer.dequantize(quantized).clone()
            weight.zero_()
            again = quantizer.dequantize(quantized)
            assert_same(again, restored, f"dequantized after the weight changed, {configuration}")

    def test_a_weight_that_is_trained_gives_no_graph(self) -> None:
        quantizer = self.make()
        for configuration in self.sample(quantizer):
            weight = torch.nn.Parameter(normal_weight(16, 200))
            quantized = quantize(quantizer, weight, configuration)
            tensors = {**quantized.tensors, "dequantized": quantizer.dequantize(quantized)}
            with_graph = [name for name, tensor in tensors.items() if tensor.requires_grad]
            assert with_graph == [], configuration
            assert weight.requires_grad, configuration

    def test_a_dequantized_weight_is_the_callers_own(self) -> None:
        quantizer = self.make()
        for configuration in self.sample(quantizer):
            quantized = quantize(quantizer, normal_weight(16, 200), configuration)
            first = quantizer.dequantize(quantized)
            expected = first.clone()
            first.zero_()  # As the engine does with differences, in place.
            assert_same(quantizer.dequantize(quantized), expected, f"again, {configuration}")

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
    def test_it_works_on_a_gpu(self) -> None:
        quantizer = self.make()
        weight = normal_weight(16, 200)
        for configuration in self.sample(quantizer):
            quantized = quantize(quantizer, weight.cuda(), configuration)
            restored = quantizer.dequantize(quantized)
            for name, tensor in {**quantized.tensors, "the weight": restored}.items():
                assert tensor.device.type == "cuda", f"device of {name}, {configuration}"
            actual = float((restored.cpu() - weight).norm() / weight.norm())
            expected = relative_error(quantizer, weight, configuration)
            self.assert_error("gpu", configuration, actual, expected)
