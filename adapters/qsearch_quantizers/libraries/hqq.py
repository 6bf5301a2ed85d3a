"""Quantizer of the package hqq: half-quadratic quantization of groups (Badri and Shaji, 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import TensorLayout
from qsearch.space.configuration import Choices, LayerConfiguration
from qsearch_quantizers.checks import check_weight, choices_of, in_order
from qsearch_quantizers.levels import chunk_of
from qsearch_quantizers.libraries.optional import optional_module

Bits = Literal[2, 3, 4, 8]
GroupSize = Literal[32, 64, 128]

SCALE_BITS = 16
LIMIT = torch.finfo(torch.float16).max

CHUNK = 1 << 14
"""Weights optimized together on the CPU. Torch takes a mean of so few on one thread, so where the
optimizer stops does not depend on the number of threads (unless one row has 32768 weights)."""

MIN_STEP = 1 / 20_000
"""The least distance of neighbouring codes that hqq gives a group, lest float16 overflow."""

MAX_FACTOR = 2.0**24
"""By how much a group is enlarged at most; float16 has no scales for smaller ones."""


class HQQ:
    """Integer codes with a zero point that hqq optimizes for each group.

    A group is ``group_size`` neighbouring weights of one row (one output feature); the last
    group of a row is shorter where the size does not divide the input features. Weight = scale ·
    (code - zero point), scale and zero point in float16, the zero point no integer. The scale is
    that of the group's range; the zero point minimizes a sparse norm of the error.

    hqq stops at the step after which the mean error of all weights it is given grows, so a weight
    that is quantized in parts of rows, as here on the CPU, gets slightly other zero points than
    in one piece. On CUDA hqq optimizes in float16.

    hqq's steps are 1/20000 or more, and a group with a range of 1e-4 or less becomes one value, so
    8 bits would not resolve a range below .013 (at a standard deviation of .001 the relative error
    would be .013, not .004). Groups whose weights are all smaller than that are multiplied by a
    power of two for hqq, and their scales divided by it. A group far from zero is left to hqq: its
    zero point would not fit float16. Weights beyond the range of float16 are clamped to it.
    """

    name = "hqq"

    class Options(BaseModel):
        """Which values of each knob a study may use; kept in the order of the defaults."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        bits: tuple[Bits, ...] = (2, 3, 4, 8)
        group_size: tuple[GroupSize, ...] = (32, 64, 128)

        _ordered = field_validator("*")(in_order)

    def __init__(self, options: Options) -> None:
        self.options = options
        self._choices = choices_of(options)

    def choices(self) -> Choices:
        """Return ``bits`` and ``group_size``, restricted as the options say."""
        return self._choices

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return bits + (16 + 16) / group size, bits per weight."""
        return configuration.integer("bits") + 2 * SCALE_BITS / configuration.integer("group_size")

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight.

        Args:
            weight: Floating-point weight (output features × input features).
            configuration: One of the quantizer's layer configurations.

        Returns:
            ``codes`` (output features × input features, uint8), ``scales`` and ``zero_points``
            (output features × groups, float16).

        Raises:
            InputError: If the weight is no finite floating-point matrix, the layer configuration
                is not one of the quantizer's, or hqq is not installed.
        """
        self._choices.index(configuration)
        check_weight(weight)
        quantizer = optional_module("hqq.core.quantize", "hqq").Quantizer
        bits, size = configuration.integer("bits"), configuration.integer("group_size")
        rows, columns = weight.shape
        layout = self.layout((rows, columns), configuration)
        tensors = {
            name: torch.empty(item.shape, dtype=item.dtype, device=weight.device)
            for name, item in layout.items()
        }
        step = rows if weight.device.type != "cpu" else max(1, CHUNK // columns)
        for first in range(0, rows, step):
            part = slice(first, first + step)
            some = weight.detach()[part].float().clamp(-LIMIT, LIMIT)
            for inside, groups, length in _groups_of_row(columns, size):
                codes, scales, zero_points = _optimized(quantizer, some[:, inside], bits, length)
                tensors["codes"][part, inside] = codes
                tensors["scales"][part, groups] = scales
                tensors["zero_points"][part, groups] = zero_points
        return QuantizedTensor(tensors, (rows, columns), configuration)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features); needs no package."""
        size = quantized.configuration.integer("group_size")
        rows, columns = quantized.shape
        codes, scales, zero_points = (
            quantized.tensors[name] for name in ("codes", "scales", "zero_points")
        )
        weight = torch.empty(quantized.shape, dtype=torch.float32, device=codes.device)
        step = chunk_of(rows, columns, codes.device)
        for first in range(0, rows, step):
            part = slice(first, first + step)
            for inside, groups, length in _groups_of_row(columns, size):
                some = codes[part, inside].float()
                grouped = some.view(some.shape[0], -1, length)
                grouped.sub_(zero_points[part, groups].float().unsqueeze(2))
                grouped.mul_(scales[part, groups].float().unsqueeze(2))
                weight[part, inside] = some
        return weight

    def dequantize_rows(self, quantized: QuantizedTensor, first: int, last: int) -> Tensor:
        """Return some rows of the weight (last - first × input features), float32."""
        return self.dequantize(quantized.rows(first, last))

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored."""
        groups = (shape[0], -(-shape[1] // configuration.integer("group_size")))
        return {
            "codes": TensorLayout(shape, torch.uint8, configuration.integer("bits")),
            "scales": TensorLayout(groups, torch.float16, None),
            "zero_points": TensorLayout(groups, torch.float16, None),
        }


def _groups_of_row(columns: int, size: int) -> Iterator[tuple[slice, slice, int]]:
    """Yield the columns, groups and group length of a row's whole groups, and of the rest."""
    whole, rest = divmod(columns, size)
    if whole:
        yield slice(0, whole * size), slice(0, whole), size
    if rest:
        yield slice(whole * size, columns), slice(whole, whole + 1), rest


def _optimized(
    quantizer: Any, weight: Tensor, bits: int, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (as the weight) and float16 scales and zero points (rows × groups)."""
    factors = _factors(weight.reshape(weight.shape[0], -1, length), bits)
    codes, found = quantizer.quantize(
        weight * factors.repeat_interleave(length, dim=1),
        nbits=bits,
        group_size=length,
        axis=1,
        bitpack=False,
        device=weight.device,
    )
    shape = (weight.shape[0], -1)
    scales = _float16(found["scale"].view(shape) / factors)
    zero_points = _float16(found["zero"].view(shape))
    return codes.nan_to_num(nan=0.0).view(shape).to(torch.uint8), scales, zero_points


def _factors(groups: Tensor, bits: int) -> Tensor:
    """Return the power of two that lifts each group to hqq's least step, 1 where none is needed.

    Args:
        groups: Rows × groups × weights of a group.
        bits: Of the codes.

    Returns:
        Rows × groups.
    """
    least = (2**bits - 1) * MIN_STEP
    low, high = groups.aminmax(dim=2)
    ratio = least / torch.maximum(high, -low).clamp(min=least / MAX_FACTOR)
    power = ratio / torch.frexp(ratio).mantissa  # Exact; above the ratio, by at most twice.
    return torch.where(high - low < least, power.clamp(min=1.0), 1.0)


def _float16(values: Tensor) -> Tensor:
    """Round to float16 within its range; NaN, from overflow in float16 on CUDA, becomes zero."""
    return values.float().nan_to_num(nan=0.0).clamp(-LIMIT, LIMIT).to(torch.float16)
