"""Reading weights in the schemes of the format compressed-tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import Float8Weight, LevelWeight, TensorLayout
from qsearch.space.configuration import KnobValue, LayerConfiguration
from qsearch_quantizers.compressed_tensors.schemes import Grouping, Scheme, grouping_of
from qsearch_quantizers.decoding import Knobs
from qsearch_quantizers.integer.decoder import GroupedDecoder, IntegerDecoder
from qsearch_quantizers.weights import chunk_of

FLOAT8 = torch.float8_e4m3fn


class CompressedTensorsDecoder(IntegerDecoder):
    """Reads integers of groups or of a whole row, and floating point of 8 bits."""

    name = "compressed-tensors"
    KNOBS: ClassVar[Knobs] = {"scheme": get_args(Scheme)}
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}

    def knob_values(self, options: Mapping[str, Any]) -> dict[str, tuple[KnobValue, ...]]:
        """Return the schemes as the values of one knob."""
        return GroupedDecoder.knob_values(self, options)

    def bits(self, configuration: LayerConfiguration) -> int:
        """Return the bits of a code."""
        return self._grouping(configuration).bits

    def group_size(self, configuration: LayerConfiguration, columns: int) -> int:
        """Return the size of a group in rows of some length."""
        return self._grouping(configuration).group or columns

    def is_asymmetric(self, configuration: LayerConfiguration) -> bool:
        """Return whether groups have zero points of their own."""
        return self._grouping(configuration).asymmetric

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

    def as_levels(self, quantized: QuantizedTensor) -> LevelWeight | None:
        """Return a weight of integers as levels of codes, exactly; None for floating point."""
        is_float = self._grouping(quantized.configuration).is_float
        return None if is_float else super().as_levels(quantized)

    def as_float8(self, quantized: QuantizedTensor) -> Float8Weight | None:
        """Return a quantized weight in 8-bit floating point, exactly; None if it is integers."""
        if not self._grouping(quantized.configuration).is_float:
            return None
        codes = quantized.tensors["codes"].view(FLOAT8)
        return Float8Weight(codes, quantized.tensors["scales"])

    def _grouping(self, configuration: Mapping[str, Any]) -> Grouping:
        self._choices.index(configuration)
        return grouping_of(configuration["scheme"])
