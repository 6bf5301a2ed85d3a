"""Weights in the schemes that engines read from the format compressed-tensors."""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import IntegerWeight
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.compressed_tensors.decoder import FLOAT8, CompressedTensorsDecoder
from qsearch_quantizers.compressed_tensors.schemes import DEFAULT, Scheme
from qsearch_quantizers.input_options import InputOptions
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.weights import check_moment, check_weight

_USUAL_ROW = 4096


class CompressedTensors(Integer, CompressedTensorsDecoder):
    """One scheme a layer: integers of groups or of a whole row, or 8-bit floating point.

    Integers are those of :class:`~qsearch_quantizers.integer.quantizer.Integer`, with its options.
    Floating point (e4m3) has a float32 scale for each row, which makes the weight of greatest
    magnitude the greatest number, 448; it is always rounded to nearest.
    """

    options: Options  # type: ignore[assignment]

    class Options(InputOptions):
        """Which schemes a study may use, and how integers follow from the layer's inputs.

        Args:
            scheme: Names such as ``W4A16-g64-asym``, ``W8A16-channel`` and ``FP8``.
        """

        scheme: tuple[Scheme, ...] = DEFAULT

        @field_validator("scheme")
        @classmethod
        def _in_order(cls, values: Any, info: ValidationInfo) -> Any:
            if not values or len(set(values)) != len(values):
                raise ValueError(f"give one value or more, each once, not {list(values)}")
            return tuple(sorted(values, key=get_args(Scheme).index))

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

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight by rounding to nearest; see the integer quantizer for errors."""
        if self._grouping(configuration).is_float and not self.needs_inputs:
            return self.quantize_by_rows(weight, configuration, _float8_rows)
        return super().quantize(weight, configuration)

    def quantize_for_inputs(
        self, weight: Tensor, configuration: LayerConfiguration, moment: Tensor
    ) -> QuantizedTensor:
        """Quantize a weight, integers as the options say."""
        if self._grouping(configuration).is_float:
            check_weight(weight)
            check_moment(moment, weight.shape[1])
            return self.quantize_by_rows(weight, configuration, _float8_rows)
        return super().quantize_for_inputs(weight, configuration, moment)

    def as_integers(self, quantized: QuantizedTensor) -> IntegerWeight:
        """Return a quantized weight as integers, exactly; an InputError for floating point."""
        if self._grouping(quantized.configuration).is_float:
            raise InputError(
                "weights of the scheme 'FP8' are not integers; the format compressed-tensors holds"
                " them"
            )
        return super().as_integers(quantized)


def _float8_rows(rows: Tensor) -> dict[str, Tensor]:
    """Return the tensors of some rows (rows × input features, float32)."""
    greatest = torch.finfo(FLOAT8).max
    scales = rows.abs().amax(dim=1, keepdim=True) / greatest
    # A zero scale divides nothing. Rounding may carry the greatest weight past the last number.
    divisors = torch.where(scales == 0, torch.inf, scales)
    codes = (rows / divisors).clamp_(-greatest, greatest).to(FLOAT8)
    return {"codes": codes.view(torch.uint8), "scales": scales}
