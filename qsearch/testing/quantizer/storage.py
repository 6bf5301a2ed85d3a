"""Checks of what a quantizer stores, and of what that depends on."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.plugins.quantizer_capabilities import SupportsShapeBits, storage_bits_of
from qsearch.plugins.tensor_layout import PackableQuantizer, SupportsLookup, SupportsRows
from qsearch.testing.comparison import assert_same, assert_same_tensors
from qsearch.testing.quantizer.base import QuantizerChecks, made_again
from qsearch.testing.samples import global_seed, normal_weight, quantize

LARGE = (512, 1024)
"""A shape that all usual groups and groups of groups divide, so that no padding is stored. It is
large enough that 1 KiB, such as a table of levels, is within :data:`STORAGE_TOLERANCE` at 2 bits.
"""

SHAPED = ((24, 200), (130, 40), (8, 1000))
"""Shapes that usual groups do not divide, short rows and long ones."""

STORAGE_TOLERANCE = 0.01
"""By which part of them the bits that are stored may differ from storage bits."""


class StorageChecks(QuantizerChecks):
    """Tensors are plain, as large as they are said to be, and a function of the weight alone."""

    def test_a_quantized_weight_says_its_shape_and_layer_configuration(self) -> None:
        for weight, configuration, quantized in self.quantized(self.make()):
            assert isinstance(quantized, QuantizedTensor), configuration
            assert quantized.shape == weight.shape, configuration
            assert quantized.configuration == configuration

    def test_tensors_are_plain_and_come_back_from_safetensors(self) -> None:
        quantizer = self.make()
        reader = made_again(quantizer)
        for weight, configuration, quantized in self.quantized(quantizer):
            what = f"weight of shape {tuple(weight.shape)} with {configuration}"
            for name, tensor in quantized.tensors.items():
                assert type(tensor) is Tensor, f"{what}: {name!r}"
                assert tensor.is_contiguous(), f"{what}: {name!r}"
            loaded = load(save(dict(quantized.tensors)))
            again = QuantizedTensor(loaded, quantized.shape, quantized.configuration)
            expected = quantizer.dequantize(quantized)
            assert_same(reader.dequantize(again), expected, f"{what}, loaded")

    def test_storage_bits_are_those_of_the_stored_bytes(self) -> None:
        quantizer = self.make()
        weight = normal_weight(*LARGE)
        for configuration in self.sample(quantizer):
            nominal = quantizer.storage_bits(configuration)
            assert 0 < nominal < math.inf, f"storage bits of {configuration}"
            assert quantizer.storage_bits(configuration) == nominal, "storage bits, again"
            bits = storage_bits_of(quantizer, LARGE, configuration)
            stored = 8 * _stored_bytes(quantizer, quantize(quantizer, weight, configuration))
            assert stored / weight.numel() == pytest.approx(bits, rel=STORAGE_TOLERANCE), (
                f"stored bits per weight with {configuration}, next to storage_bits; codes must be"
                " packed, by the quantizer or by its `layout` with bits"
            )

    @pytest.mark.parametrize("shape", SHAPED)
    def test_storage_bits_of_a_shape_are_those_of_its_stored_bytes(
        self, shape: tuple[int, int]
    ) -> None:
        quantizer = self.make()
        if not isinstance(quantizer, SupportsShapeBits):
            pytest.skip("this quantizer's storage bits do not depend on the shape")
        weight = normal_weight(*shape)
        for configuration in self.sample(quantizer):
            bits = quantizer.storage_bits_of(shape, configuration)
            quantized = quantize(quantizer, weight, configuration)
            stored = 8 * _stored_bytes(quantizer, quantized) / weight.numel()
            # Each tensor ends with a whole byte.
            rest = 8 * len(quantized.tensors) / weight.numel()
            assert abs(stored - bits) <= STORAGE_TOLERANCE * bits + rest, (
                f"{stored:g} bits per weight are stored of shape {shape} with {configuration};"
                f" storage_bits_of says {bits:g}"
            )

    def test_tensors_are_as_the_layout_says(self) -> None:
        quantizer = self.make()
        if not isinstance(quantizer, PackableQuantizer):
            pytest.skip("this quantizer has no layout")
        for _, configuration, quantized in self.quantized(quantizer):
            layouts = quantizer.layout(quantized.shape, configuration)
            assert sorted(quantized.tensors) == sorted(layouts), configuration
            for name, layout in layouts.items():
                tensor, what = quantized.tensors[name], f"{name} with {configuration}"
                assert tuple(tensor.shape) == tuple(layout.shape), what
                assert tensor.dtype == layout.dtype, what
                if layout.bits is not None:
                    assert 1 <= layout.bits <= 8, what
                    assert tensor.dtype == torch.uint8, what
                    assert int(tensor.max()) < 2**layout.bits, f"codes of {what}"

    def test_rows_alone_are_those_of_the_whole_weight(self) -> None:
        quantizer = self.make()
        if not isinstance(quantizer, SupportsRows):
            pytest.skip("this quantizer does not dequantize rows")
        for _, configuration, quantized in self.quantized(quantizer):
            whole, rows = quantizer.dequantize(quantized), quantized.shape[0]
            for first, last in {(0, rows), (rows // 3, rows // 3 + 1), (rows // 2, rows)}:
                actual = quantizer.dequantize_rows(quantized, first, last)
                assert_same(actual, whole[first:last], f"rows {first} to {last}, {configuration}")

    def test_rows_that_are_looked_up_are_those_of_the_whole_weight(self) -> None:
        quantizer = self.make()
        if not isinstance(quantizer, SupportsLookup):
            pytest.skip("this quantizer does not look rows up")
        for _, configuration, quantized in self.quantized(quantizer):
            whole, shape = quantizer.dequantize(quantized), quantized.shape
            elements = {
                name: tensor.reshape(-1).__getitem__ for name, tensor in quantized.tensors.items()
            }
            rows = torch.tensor([shape[0] - 1, 0, shape[0] // 2])
            actual = quantizer.look_up(elements, shape, configuration, rows)
            assert_same(actual, whole[rows], f"rows that are looked up, {configuration}")

    def test_equal_weights_give_equal_tensors(self) -> None:
        quantizer = self.make()
        for other in (quantizer, made_again(quantizer)):
            for weight, configuration, quantized in self.quantized(quantizer):
                again = quantize(other, weight, configuration)
                assert_same_tensors(again.tensors, quantized.tensors, f"again, {configuration}")

    def test_random_numbers_and_settings_of_the_process_play_no_part(self) -> None:
        quantizer = self.make()
        weight = normal_weight(16, 200)
        for configuration in self.sample(quantizer):
            results: list[dict[str, Tensor]] = []
            for seed in (1, 2):
                with global_seed(seed):
                    before = _torch_settings()
                    quantized = quantize(quantizer, weight, configuration)
                    restored = quantizer.dequantize(quantized)
                    assert _torch_settings() == before, "settings of PyTorch"
                    results.append({**quantized.tensors, "dequantized": restored})
            assert_same_tensors(results[1], results[0], f"another seed, {configuration}")


def _stored_bytes(quantizer: Quantizer, quantized: QuantizedTensor) -> int:
    """Return the bytes that the tensors take on disk, with codes packed as the layout says."""
    if not isinstance(quantizer, PackableQuantizer):
        return quantized.nbytes
    layouts = quantizer.layout(quantized.shape, quantized.configuration)
    return sum(
        tensor.nbytes if (bits := layouts[name].bits) is None else -(-tensor.numel() * bits // 8)
        for name, tensor in quantized.tensors.items()
    )


def _torch_settings() -> tuple[object, ...]:
    """Return what PyTorch has for the whole process and a quantizer could change."""
    generator = hash(torch.get_rng_state().numpy().tobytes())
    gradients, threads = torch.is_grad_enabled(), torch.get_num_threads()
    return generator, gradients, threads, torch.get_default_dtype()
