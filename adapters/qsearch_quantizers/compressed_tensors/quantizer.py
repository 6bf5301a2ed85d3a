"""Weights in the schemes that engines read from the format compressed-tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import Float8Weight, IntegerWeight, TensorLayout
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.compressed_tensors.schemes import DEFAULT, Grouping, Scheme, grouping_of
from qsearch_quantizers.integer.quantizer import Integer, Rounding
from qsearch_quantizers.knobs import KnobOptions
from qsearch_quantizers.weights import check_moment, check_weight, chunk_of

FLOAT8 = torch.float8_e4m3fn
_USUAL_ROW = 4096


class CompressedTensors(Integer):
    """One scheme a layer: integers of groups or of a whole row, or 8-bit floating point.

    Integers are those of :class:`~qsearch_quantizers.integer.quantizer.Integer`, with its rounding.
    Floating point (e4m3) has a float32 scale for each row, which makes the weight of greatest
    magnitude the greatest number, 448; it is always rounded to nearest.
    """

    name = "compressed-tensors"

    options: Options  # type: ignore[assignment]

    class Options(KnobOptions):
        """Which schemes a study may use, and the rounding of integers.

        Args:
            scheme: Names such as ``W4A16-g64-asym``, ``W8A16-channel`` and ``FP8``.
            rounding: ``nearest``, or ``gptq``, which needs the moments of the layers' inputs.
            dampening: What ``gptq`` adds to each input's mean square, as a share of their mean.
        """

        scheme: tuple[Scheme, ...] = DEFAULT
        rounding: Rounding = "nearest"
        dampening: float = Field(default=0.01, gt=0, allow_inf_nan=False)

        @field_validator("scheme")
        @classmethod
        def _in_order(cls, values: Any, info: ValidationInfo) -> Any:
            if not values or len(set(values)) != len(values):
                raise ValueError(f"give one value or more, each once, not {list(values)}")
            return tuple(sorted(values, key=get_args(Scheme).index))

    def bits(self, configuration: LayerConfiguration) -> int:
        """Return the bits of a code."""
        return self._grouping(configuration).bits

    def group_size(self, configuration: LayerConfiguration, columns: int) -> int:
        """Return the size of a group in rows of some length."""
        return self._grouping(configuration).group or columns

    def is_asymmetric(self, configuration: LayerConfiguration) -> bool:
        """Return whether groups have zero points of their own."""
        return self._grouping(configuration).asymmetric

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return the bits per weight of rows of a usual length."""
        return self.storage_bits_of((_USUAL_ROW, _USUAL_ROW), configuration)

    def storage_bits_of(self, shape: tuple[int, int], configuration: LayerConfiguration) -> float:
        """Return the exact bits per weight of a layer (output × input features)."""
        layouts = self.layout(shape, configuration).values()
        total = sum(one.count * (one.bits or 8 * one.dtype.itemsize) for one in layouts)
        return total / math.prod(shape)

    def takes(self, shape: tuple[int, int], configuration: LayerConfiguration) -> bool:
        """Return whether rows (output × input features) are whole groups, as engines need them."""
        return shape[1] % self.group_size(configuration, shape[1]) == 0

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored."""
        if not self._grouping(configuration).is_float:
            return super().layout(shape, configuration)
        return {
            "codes": TensorLayout(shape, torch.uint8, 8),
            "scales": TensorLayout((shape[0], 1), torch.float32, None),
        }

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight by rounding to nearest; see the integer quantizer for errors."""
        if self._grouping(configuration).is_float and not self.needs_inputs:
            return self.quantize_by_rows(weight, configuration, _float8_rows)
        return super().quantize(weight, configuration)

    def quantize_for_inputs(
        self, weight: Tensor, configuration: LayerConfiguration, moment: Tensor
    ) -> QuantizedTensor:
        """Quantize a weight, integers by the option's rounding."""
        if self._grouping(configuration).is_float:
            check_weight(weight)
            check_moment(moment, weight.shape[1])
            return self.quantize_by_rows(weight, configuration, _float8_rows)
        return super().quantize_for_inputs(weight, configuration, moment)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features)."""
        float8 = self.as_float8(quantized)
        if float8 is None:
            return super().dequantize(quantized)
        rows, columns = quantized.shape
        weight = torch.empty(quantized.shape, dtype=torch.float32, device=float8.codes.device)
        step = chunk_of(rows, columns, weight.device)
        for first in range(0, rows, step):
            part = slice(first, first + step)
            torch.mul(float8.codes[part].float(), float8.scales[part], out=weight[part])
        return weight

    def as_integers(self, quantized: QuantizedTensor) -> IntegerWeight:
        """Return a quantized weight as integers, exactly; an InputError for floating point."""
        if self._grouping(quantized.configuration).is_float:
            raise InputError(
                "weights of the scheme 'FP8' are not integers; the format compressed-tensors holds"
                " them"
            )
        return super().as_integers(quantized)

    def as_float8(self, quantized: QuantizedTensor) -> Float8Weight | None:
        """Return a quantized weight in 8-bit floating point, exactly; None if it is integers."""
        if not self._grouping(quantized.configuration).is_float:
            return None
        codes = quantized.tensors["codes"].view(FLOAT8)
        return Float8Weight(codes, quantized.tensors["scales"])

    def _grouping(self, configuration: Mapping[str, Any]) -> Grouping:
        self._choices.index(configuration)
        return grouping_of(configuration["scheme"])


def _float8_rows(rows: Tensor) -> dict[str, Tensor]:
    """Return the tensors of some rows (rows × input features, float32)."""
    greatest = torch.finfo(FLOAT8).max
    scales = rows.abs().amax(dim=1, keepdim=True) / greatest
    # A zero scale divides nothing. Rounding may carry the greatest weight past the last number.
    divisors = torch.where(scales == 0, torch.inf, scales)
    codes = (rows / divisors).clamp_(-greatest, greatest).to(FLOAT8)
    return {"codes": codes.view(torch.uint8), "scales": scales}
