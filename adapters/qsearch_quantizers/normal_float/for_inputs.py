"""Codes and scales of blocks that follow from a layer's inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch_quantizers.fitted_scales import scale_factors
from qsearch_quantizers.gptq import compensated_codes
from qsearch_quantizers.normal_float.blocks import TINY, halves_swapped
from qsearch_quantizers.normal_float.levels import LevelTable, encode, level_table
from qsearch_quantizers.normal_float.scales import block_scales, quantize_scales
from qsearch_quantizers.packed.bit_packing import pack


@dataclass(frozen=True)
class ScaledLevels:
    """The values of one group of columns: levels times the scale of each row.

    Args:
        scales: One for each row (1 × output features), float32.
        table: The levels.
    """

    scales: Tensor
    table: LevelTable

    @cached_property
    def _inverse(self) -> Tensor:
        return self.scales.clamp(min=TINY).reciprocal()

    def encode(self, values: Tensor, out: Tensor) -> Tensor:
        """Write the codes of the nearest values of a column (1 × output features) to ``out``."""
        return out.copy_(encode((values * self._inverse).clamp_(-1, 1), self.table))

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of codes, float32."""
        return self.table.levels[codes.long()] * self.scales


def fitted(
    weight: Tensor,
    quantized: QuantizedTensor,
    moment: Tensor,
    dampening: float,
    dequantize: Callable[[QuantizedTensor], Tensor],
) -> QuantizedTensor:
    """Return a quantized weight with scales that suit its codes; see :func:`scale_factors`.

    As it is where blocks go on in the next row, or where multiples are too coarse to gain by it.
    """
    configuration, tensors = quantized.configuration, quantized.tensors
    size = configuration.integer("block_size")
    if quantized.shape[1] % size:
        return quantized
    original, before = weight.detach().float(), dequantize(quantized)
    (factors,) = scale_factors(original, [before], moment, size, dampening)
    scales = block_scales(tensors["scale_codes"], tensors["scales"], configuration)
    codes, greatest = quantize_scales(
        (scales * factors.view(-1)).clamp_min(0), configuration, nearest=True
    )
    found = replace(quantized, tensors={**tensors, "scale_codes": codes, "scales": greatest})
    after = dequantize(found)

    def moved(error: Tensor) -> float:
        return float(((error @ moment.to(error)) * error).sum())

    return found if moved(original - after) < moved(original - before) else quantized


def compensated(weight: Tensor, nearest: QuantizedTensor, factor: Tensor) -> QuantizedTensor:
    """Return a weight that was rounded to nearest as rounded by GPTQ, on the same scales.

    The factor is that of :func:`~qsearch_quantizers.gptq.feedback_factor`.
    """
    configuration, tensors = nearest.configuration, nearest.tensors
    bits, size = configuration.integer("bits"), configuration.integer("block_size")
    rows, columns = nearest.shape
    scales = block_scales(tensors["scale_codes"], tensors["scales"], configuration)
    # A block that continues in the next row is several groups.
    group = math.gcd(size, columns)
    starts = torch.arange(0, rows * columns, group, device=scales.device) // size
    of_groups = scales[starts].view(rows, -1)
    table = level_table(bits, weight.device)
    codes, _ = compensated_codes(
        factor,
        weight.detach().float(),
        group,
        lambda _, column: ScaledLevels(of_groups[:, column // group][None], table),
    )
    packed = halves_swapped(pack(codes.reshape(-1), bits), bits)
    return replace(nearest, tensors={**tensors, "codes": packed})
