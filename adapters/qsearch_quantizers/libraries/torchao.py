"""Quantizer of the package torchao: weight-only int4 and int8 of groups."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import IntegerWeight
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.integer.grouped import GroupedQuantizer, integer_weight
from qsearch_quantizers.knobs import choices_of, in_order
from qsearch_quantizers.libraries.optional import optional_module
from qsearch_quantizers.weights import check_weight, quantize_by_rows

Bits = Literal[4, 8]
GroupSize = Literal[32, 64, 128, 256]
Scheme = Literal["symmetric", "asymmetric"]

MIN_SCALE = 2.0**-24
"""The least positive float16: torchao divides by scales, so none may become zero."""


class TorchAO(GroupedQuantizer):
    """torchao's affine quantization: weight = scale · (code - zero point), scales in float16.

    * ``symmetric``: the grid is from minus to plus the group's absolute maximum, and the zero
      point is 2^(bits-1).
    * ``asymmetric``: the grid is the group's range with zero included, and the zero point an
      integer of ``bits`` bits.

    Zero is on the grid in both. torchao's own int4 kernels for CUDA keep the zero point as a
    floating-point number instead. Dequantizing gives the same bits as torchao, without it.
    """

    name = "torchao"

    class Options(BaseModel):
        """Which values of each knob a study may use; kept in the order of the defaults."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        bits: tuple[Bits, ...] = (4, 8)
        group_size: tuple[GroupSize, ...] = (32, 64, 128, 256)
        scheme: tuple[Scheme, ...] = ("symmetric", "asymmetric")

        _ordered = field_validator("*")(in_order)

    def __init__(self, options: Options) -> None:
        self.options = options
        super().__init__(choices_of(options))

    def zero_points(self, configuration: LayerConfiguration) -> torch.dtype | None:
        """Return uint8 for the asymmetric scheme."""
        return torch.uint8 if configuration.text("scheme") == "asymmetric" else None

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight.

        Returns:
            ``codes`` (output features × input features, uint8), ``scales`` (output features ×
            groups, float16) and, if asymmetric, ``zero_points`` (same, uint8).

        Raises:
            InputError: If the weight is not a finite floating-point matrix, the layer
                configuration is not one of the quantizer's, or torchao is not installed.
        """
        self._choices.index(configuration)
        check_weight(weight)
        primitives = optional_module("torchao.quantization.quant_primitives", "torchao")
        size, greatest = configuration.integer("group_size"), 2 ** configuration.integer("bits") - 1
        mapping = primitives.MappingType[configuration.text("scheme").upper()]

        def quantize(rows: Tensor) -> dict[str, Tensor]:
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

        layout = self.layout((weight.shape[0], weight.shape[1]), configuration)
        return quantize_by_rows(weight, configuration, layout, quantize)

    def as_integers(self, quantized: QuantizedTensor) -> IntegerWeight:
        """Return a quantized weight as integers on a grid, exactly."""
        return integer_weight(quantized)
