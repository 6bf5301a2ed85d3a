"""Checks of what comes back when a weight is quantized and dequantized, and of the weight."""

from __future__ import annotations

from unittest import SkipTest

import torch
from torch import Tensor

from qsearch.testing.base import require, require_equal
from qsearch.testing.quantizer.base import SHAPES, QuantizerChecks
from qsearch.testing.samples import normal_weight, quantize, relative_error, round_trip
from qsearch.testing.tensors import require_finite, require_same


class WeightChecks(QuantizerChecks):
    """A dequantized weight is float32, of its shape, on its device, and the caller's own."""

    __test__ = False

    def test_weights_of_any_shape_come_back_as_float32_of_that_shape(self) -> None:
        quantizer = self.make()
        for shape in SHAPES:
            for chosen in self.sample(quantizer):
                restored = round_trip(quantizer, normal_weight(*shape), chosen)
                what = f"dequantized weight of shape {shape} with {chosen}"
                require_equal(f"{what}: class", type(restored), Tensor)
                require_equal(f"{what}: shape", tuple(restored.shape), shape)
                require_equal(f"{what}: type", restored.dtype, torch.float32)
                require_equal(f"{what}: device", restored.device.type, "cpu")
                require_finite(what, restored)

    def test_where_the_weight_lies_in_memory_does_not_matter(self) -> None:
        quantizer = self.make()
        views = {
            "transposed": normal_weight(200, 16).t(),
            "part of a larger": normal_weight(40, 300)[3:19, 10:210],
        }
        for name, weight in views.items():
            for chosen in self.sample(quantizer):
                expected = round_trip(quantizer, weight.contiguous(), chosen)
                found = round_trip(quantizer, weight, chosen)
                require_same(f"{name} weight with {chosen}, dequantized", found, expected)

    def test_half_precision_weights_are_taken(self) -> None:
        quantizer = self.make()
        for dtype in (torch.float16, torch.bfloat16):
            weight = normal_weight(16, 200).to(dtype)
            for chosen in self.sample(quantizer):
                restored = round_trip(quantizer, weight, chosen)
                require_equal(f"{dtype} weight with {chosen}", restored.dtype, torch.float32)
                self.require_expected_error(
                    "test_half_precision_weights_are_taken",
                    chosen,
                    f"a {dtype} weight, against its values in float32,",
                    relative_error(quantizer, weight, chosen),
                    relative_error(quantizer, weight.float(), chosen),
                )

    def test_the_weight_is_left_as_it_was_and_not_kept(self) -> None:
        quantizer = self.make()
        for chosen in self.sample(quantizer):
            weight = normal_weight(16, 200)
            quantized = quantize(quantizer, weight, chosen)
            restored = quantizer.dequantize(quantized).clone()
            require_same(f"weight after quantize with {chosen}", weight, normal_weight(16, 200))
            weight.zero_()
            again = quantizer.dequantize(quantized)
            require_same(f"dequantized after the weight changed, {chosen}", again, restored)

    def test_a_weight_that_is_trained_gives_no_graph(self) -> None:
        quantizer = self.make()
        for chosen in self.sample(quantizer):
            weight = torch.nn.Parameter(normal_weight(16, 200))
            quantized = quantize(quantizer, weight, chosen)
            tensors = {**quantized.tensors, "dequantized": quantizer.dequantize(quantized)}
            with_graph = [name for name, tensor in tensors.items() if tensor.requires_grad]
            require_equal(f"tensors with a graph, {chosen}", with_graph, [])
            require(weight.requires_grad, f"expected a weight that requires a gradient, {chosen}")

    def test_a_dequantized_weight_is_the_callers_own(self) -> None:
        quantizer = self.make()
        for chosen in self.sample(quantizer):
            quantized = quantize(quantizer, normal_weight(16, 200), chosen)
            first = quantizer.dequantize(quantized)
            expected = first.clone()
            first.zero_()  # As the engine does with differences, in place.
            second = quantizer.dequantize(quantized)
            require_same(f"dequantized again, {chosen}", second, expected)

    def test_it_works_on_a_gpu(self) -> None:
        if not torch.cuda.is_available():
            raise SkipTest("there is no CUDA device")
        quantizer = self.make()
        for chosen in self.sample(quantizer):
            weight = normal_weight(16, 200)
            quantized = quantize(quantizer, weight.cuda(), chosen)
            for name, tensor in quantized.tensors.items():
                require_equal(f"device of {name!r}, {chosen}", tensor.device.type, "cuda")
            restored = quantizer.dequantize(quantized)
            require_equal(f"device of the weight, {chosen}", restored.device.type, "cuda")
            self.require_expected_error(
                "test_it_works_on_a_gpu",
                chosen,
                "a weight on a GPU, against the CPU,",
                float((restored.cpu() - weight).norm() / weight.norm()),
                relative_error(quantizer, weight, chosen),
            )
