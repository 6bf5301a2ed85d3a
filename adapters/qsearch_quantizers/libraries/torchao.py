"""Quantizer of the package torchao: weight-only int4 and int8 of groups."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import IntegerWeight
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.integer.grouped import GroupedQuantizer
from qsearch_quantizers.knobs import KnobOptions
from qsearch_quantizers.libraries.decoder import TorchAODecoder
from qsearch_quantizers.libraries.optional import optional_module

Bits = Literal[4, 8]
GroupSize = Literal[32, 64, 128, 256]
Scheme = Literal["symmetric", "asymmetric"]

MIN_SCALE = 2.0**-24
"""The least positive float16: torchao divides by scales, so none may become zero."""


class TorchAO(GroupedQuantizer, TorchAODecoder):
    """torchao's affine quantization: weight = scale · (code - zero point), scales in float16.

    * ``symmetric``: the grid is from minus to plus the group's absolute maximum, and the zero
      point is 2^(bits-1).
    * ``asymmetric``: the grid is the group's range with zero included, and the zero point an
      integer of ``bits`` bits.

    Zero is on the grid in both. torchao's own int4 kernels for CUDA keep the zero point as a
    floating-point number instead. Dequantizing gives the same bits as torchao, without it.
    """

    class Options(KnobOptions):
        """Which values of each knob a study may use."""

        bits: tuple[Bits, ...] = (4, 8)
        group_size: tuple[GroupSize, ...] = (32, 64, 128, 256)
        scheme: tuple[Scheme, ...] = ("symmetric", "asymmetric")

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight; an InputError says that torchao is not installed."""
        primitives = optional_module("torchao.quantization.quant_primitives", "torchao")
        size, greatest = configuration.integer("group_size"), 2 ** configuration.integer("bits") - 1

        def quantize(rows: Tensor) -> dict[str, Tensor]:
            mapping = primitives.MappingType[configuration.text("scheme").upper()]
            # Zeros fill the last group; they do not change its grid.
            part = torch.nn.functional.pad(rows, (0, -rows.shape[1] % size))
            scales, zero_points = primitives.choose_qparams_affine(
                part, mapping, (1, size), torch.uint8, 0, greatest, eps=MIN_SCALE
            )
            scales = scales.clamp(max=torch.finfo(torch.float16).max).to(torch.float16)
            codes = primitives.quantize_affine(
                part, (1, size), scales.float(), zero_points, torch.uint8, 0, greatest
            )
            groups = (len(rows), -1)  # torchao drops the second dimension of a single group.
            return {
                "codes": codes[:, : rows.shape[1]],
                "scales": scales.view(groups),
                "zero_points": zero_points.view(groups),
            }

        return self.quantize_by_rows(weight, configuration, quantize)

    def as_integers(self, quantized: QuantizedTensor) -> IntegerWeight:
        """Return a quantized weight as integers on a grid, exactly."""
        return self.integer_weight(quantized)
