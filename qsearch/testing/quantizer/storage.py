"""Checks of what a quantizer stores, and of what that depends on."""

from __future__ import annotations

import math
import zlib
from unittest import SkipTest

import torch
from safetensors.torch import load, save
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.plugins.tensor_layout import DequantizesRows, PackableQuantizer, TensorLayout
from qsearch.testing.base import described, require, require_equal
from qsearch.testing.quantizer.base import QuantizerChecks, made_again
from qsearch.testing.samples import global_seed, normal_weight, quantize
from qsearch.testing.tensors import require_same, require_same_tensors

LARGE = (256, 2048)
"""A shape that all usual groups and groups of groups divide, so that no padding is stored: rows and
columns are powers of two, and 2^19 weights are 32 groups of 256 scales of 64 weights. It is large
enough that 1 KiB which does not grow with the weight, such as a table of levels, is less than
:data:`STORAGE_TOLERANCE` of it at 2 bits."""

STORAGE_TOLERANCE = 0.01
"""By which part of them the bits that are stored may differ from storage bits."""

HOW_TO_PACK = "; give the quantizer a `layout` with bits, or let it pack codes itself"


class StorageChecks(QuantizerChecks):
    """Tensors are plain, as large as they are said to be, and a function of the weight alone."""

    __test__ = False

    def test_a_quantized_weight_says_its_shape_and_layer_configuration(self) -> None:
        quantizer = self.make()
        for weight, chosen, quantized in self.quantized(quantizer):
            require(
                isinstance(quantized, QuantizedTensor),
                f"{chosen}: expected a QuantizedTensor, found a {type(quantized)}",
            )
            require_equal(f"shape, {chosen}", tuple(quantized.shape), tuple(weight.shape))
            require_equal("layer configuration", quantized.configuration, chosen)

    def test_tensors_are_plain_and_come_back_from_safetensors(self) -> None:
        quantizer = self.make()
        reader = made_again(quantizer)
        for weight, chosen, quantized in self.quantized(quantizer):
            what = f"weight of shape {tuple(weight.shape)} with {chosen}"
            for name, tensor in quantized.tensors.items():
                found = f"{what}, {name!r}: expected a plain contiguous tensor, found"
                require(type(tensor) is Tensor, f"{found} a {type(tensor).__name__}")
                require(tensor.is_contiguous(), f"{found} strides {tensor.stride()}")
            try:
                loaded = load(save(dict(quantized.tensors)))
            except Exception as error:  # What safetensors raises depends on the fault.
                raise AssertionError(f"{what}: safetensors: {described(error)}") from error
            again = QuantizedTensor(loaded, quantized.shape, quantized.configuration)
            expected = quantizer.dequantize(quantized)
            require_same(f"{what}, loaded", reader.dequantize(again), expected)

    def test_storage_bits_are_those_of_the_stored_bytes(self) -> None:
        quantizer = self.make()
        weight = normal_weight(*LARGE)
        for chosen in self.sample(quantizer):
            bits = quantizer.storage_bits(chosen)
            require(
                0 < bits < math.inf,
                f"storage bits of {chosen}: expected a positive number, found {bits}",
            )
            require_equal(f"storage bits of {chosen}, again", quantizer.storage_bits(chosen), bits)
            stored = 8 * _stored_bytes(quantizer, quantize(quantizer, weight, chosen))
            found = stored / weight.numel()
            whole_bytes = found > bits and not isinstance(quantizer, PackableQuantizer)
            hint = HOW_TO_PACK if whole_bytes else ""
            require(
                abs(found - bits) <= STORAGE_TOLERANCE * bits,
                f"bits per weight stored of {LARGE[0]} × {LARGE[1]} weights with {chosen}:"
                f" expected {bits:.4f}, as storage_bits says, found {found:.4f}{hint}",
            )

    def test_tensors_are_as_the_layout_says(self) -> None:
        quantizer = self.make()
        if not isinstance(quantizer, PackableQuantizer):
            raise SkipTest("this quantizer has no layout")
        for weight, chosen, quantized in self.quantized(quantizer):
            shape = (weight.shape[0], weight.shape[1])
            layouts = quantizer.layout(shape, chosen)
            what = f"weight of shape {shape} with {chosen}"
            require_equal(f"{what}: names", sorted(quantized.tensors), sorted(layouts))
            for name, layout in layouts.items():
                tensor = quantized.tensors[name]
                found = (tuple(tensor.shape), tensor.dtype)
                require_equal(f"{what}: {name}", found, (tuple(layout.shape), layout.dtype))
                _require_fits(f"{what}: {name}", tensor, layout)

    def test_rows_alone_are_those_of_the_whole_weight(self) -> None:
        quantizer = self.make()
        if not isinstance(quantizer, DequantizesRows):
            raise SkipTest("this quantizer does not dequantize rows")
        for _, chosen, quantized in self.quantized(quantizer):
            whole, rows = quantizer.dequantize(quantized), quantized.shape[0]
            for first, last in {(0, rows), (rows // 3, rows // 3 + 1), (rows // 2, rows)}:
                found = quantizer.dequantize_rows(quantized, first, last)
                require_same(f"rows {first} to {last}, {chosen}", found, whole[first:last])

    def test_equal_weights_give_equal_tensors(self) -> None:
        quantizer = self.make()
        other = made_again(quantizer)
        for weight, chosen, quantized in self.quantized(quantizer):
            found = quantize(quantizer, weight, chosen)
            require_same_tensors(f"quantized again with {chosen}", found.tensors, quantized.tensors)
            found = quantize(other, weight, chosen)
            require_same_tensors(f"by another, {chosen}", found.tensors, quantized.tensors)

    def test_random_numbers_and_settings_of_the_process_play_no_part(self) -> None:
        quantizer = self.make()
        weight = normal_weight(16, 200)
        for chosen in self.sample(quantizer):
            with global_seed(1):
                before = _torch_settings()
                quantized = quantize(quantizer, weight, chosen)
                restored = quantizer.dequantize(quantized)
                for name, value in _torch_settings().items():
                    require_equal(f"{name} after {chosen}", value, before[name])
            with global_seed(2):
                found = quantize(quantizer, weight, chosen)
                again = quantizer.dequantize(found)
            require_same_tensors(f"other seed, {chosen}", found.tensors, quantized.tensors)
            require_same(f"dequantized with another seed, {chosen}", again, restored)


def _stored_bytes(quantizer: Quantizer, quantized: QuantizedTensor) -> int:
    """Return the bytes that the tensors take on disk, with codes packed as the layout says."""
    if not isinstance(quantizer, PackableQuantizer):
        return quantized.nbytes
    layouts = quantizer.layout(quantized.shape, quantized.configuration)
    return sum(
        tensor.nbytes if (bits := layouts[name].bits) is None else -(-tensor.numel() * bits // 8)
        for name, tensor in quantized.tensors.items()
    )


def _require_fits(what: str, tensor: Tensor, layout: TensorLayout) -> None:
    """Check that codes fit into the bits that they are packed into."""
    if layout.bits is None:
        return
    require(1 <= layout.bits <= 8, f"{what}: bits: expected 1 to 8 or None, found {layout.bits}")
    require_equal(f"{what}: type of codes", tensor.dtype, torch.uint8)
    greatest = int(tensor.max())
    require(
        greatest < 2**layout.bits,
        f"{what}: codes of {layout.bits} bits: expected less than {2**layout.bits},"
        f" found {greatest}",
    )


def _torch_settings() -> dict[str, object]:
    """Return what PyTorch has for the whole process and a quantizer could change."""
    return {
        "checksum of the generator's state": zlib.crc32(bytes(torch.get_rng_state().tolist())),
        "default type": torch.get_default_dtype(),
        "whether gradients are computed": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
    }
