"""Quantizer of the package hqq: half-quadratic quantization of groups (Badri and Shaji, 2023)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.integer.decoder import groups_of_row
from qsearch_quantizers.integer.grouped import GroupedQuantizer
from qsearch_quantizers.knobs import KnobOptions
from qsearch_quantizers.libraries.decoder import HQQDecoder
from qsearch_quantizers.libraries.optional import optional_module

Bits = Literal[2, 3, 4, 8]
GroupSize = Literal[32, 64, 128]

LIMIT = torch.finfo(torch.float16).max

CHUNK = 1 << 14
"""Weights optimized together on the CPU. Torch takes a mean of so few on one thread, so where the
optimizer stops does not depend on the number of threads (unless one row has 32768 weights)."""

MIN_STEP = 1 / 20_000
"""The least distance of neighbouring codes that hqq gives a group, lest float16 overflow."""

MAX_FACTOR = 2.0**24
"""By how much a group is enlarged at most; float16 has no scales for smaller ones."""


class HQQ(GroupedQuantizer, HQQDecoder):
    """Integer codes with a zero point that hqq optimizes for each group.

    Weight = scale · (code - zero point), both in float16; the zero point is not an integer. The
    scale is that of the group's range; the zero point minimizes a sparse norm of the error.
    Dequantizing needs no package.

    hqq stops at the step after which the mean error of all weights it is given grows, so a weight
    that is quantized in parts of rows, as here on the CPU, gets slightly other zero points than
    in one piece. On CUDA hqq optimizes in float16.

    hqq's steps are 1/20000 or more, so 8 bits would not resolve a range below 0.013. Groups whose
    weights are all smaller than that are multiplied by a power of two for hqq, and their scales
    divided by it. A group far from zero is left to hqq: its zero point would not fit float16.
    Weights beyond the range of float16 are clamped to it.
    """

    class Options(KnobOptions):
        """Which values of each knob a study may use."""

        bits: tuple[Bits, ...] = (2, 3, 4, 8)
        group_size: tuple[GroupSize, ...] = (32, 64, 128)

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight; an InputError says that hqq is not installed."""
        quantizer = optional_module("hqq.core.quantize", "hqq").Quantizer
        bits, size = configuration.integer("bits"), configuration.integer("group_size")

        def quantize(part: Tensor) -> dict[str, Tensor]:
            values = part.clamp(-LIMIT, LIMIT)
            pieces = [
                _optimized(quantizer, values[:, inside], bits, length)
                for inside, _, length in groups_of_row(part.shape[1], size)
            ]
            names = ("codes", "scales", "zero_points")
            joined = (torch.cat(tensors, dim=1) for tensors in zip(*pieces, strict=True))
            return dict(zip(names, joined, strict=True))

        return self.quantize_by_rows(weight, configuration, quantize, CHUNK)


def _optimized(
    quantizer: Any, weight: Tensor, bits: int, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (as the weight) and float16 scales and zero points (rows × groups)."""
    factors = _factors(weight.reshape(weight.shape[0], -1, length), bits)
    codes, grid = quantizer.quantize(
        weight * factors.repeat_interleave(length, dim=1),
        nbits=bits,
        group_size=length,
        axis=1,
        bitpack=False,
        device=weight.device,
    )
    shape = (weight.shape[0], -1)
    scales = _float16(grid["scale"].view(shape) / factors)
    zero_points = _float16(grid["zero"].view(shape))
    return codes.nan_to_num(nan=0.0).view(shape).to(torch.uint8), scales, zero_points


def _factors(groups: Tensor, bits: int) -> Tensor:
    """Return the power of two that lifts each group to hqq's least step, 1 where none is needed.

    The result is (rows × groups) for groups of (rows × groups × weights).
    """
    least = (2**bits - 1) * MIN_STEP
    low, high = groups.aminmax(dim=2)
    ratio = least / torch.maximum(high, -low).clamp(min=least / MAX_FACTOR)
    power = ratio / torch.frexp(ratio).mantissa  # Exact; above the ratio, by at most twice.
    return torch.where(high - low < least, power.clamp(min=1.0), 1.0)


def _float16(values: Tensor) -> Tensor:
    """Round to float16 within its range; NaN, from overflow in float16 on CUDA, becomes zero."""
    return values.float().nan_to_num(nan=0.0).clamp(-LIMIT, LIMIT).to(torch.float16)
