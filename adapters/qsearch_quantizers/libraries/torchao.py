"""Quantizer of the package torchao: weight-only int4 and int8 of groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import IntegerWeight, TensorLayout
from qsearch.space.configuration import Choices, LayerConfiguration
from qsearch_quantizers.checks import check_weight, choices_of, in_order
from qsearch_quantizers.integer.grouped_integers import (
    integer_layout,
    integer_storage_bits,
    integer_weight,
)
from qsearch_quantizers.levels import chunk_of
from qsearch_quantizers.libraries.optional import optional_module

Bits = Literal[4, 8]
GroupSize = Literal[32, 64, 128, 256]
Scheme = Literal["symmetric", "asymmetric"]

MIN_SCALE = 2.0**-24
"""The least positive float16: torchao divides by scales, so none may become zero."""


class TorchAO:
    """torchao's affine quantization: weight = scale · (code - zero point), scales in float16.

    A group is ``group_size`` neighbouring weights of one row (one output feature); the last
    group of a row is shorter where the size does not divide the input features.

    * ``symmetric``: the grid is from minus to plus the group's absolute maximum, and the zero
      point is 2^(bits-1).
    * ``asymmetric``: the grid is the group's range with zero included, and the zero point an
      integer of ``bits`` bits.

    Zero is on the grid in both. torchao's own int4 kernels for CUDA keep the zero point as a
    floating-point number instead.
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
        self._choices = choices_of(options)

    def choices(self) -> Choices:
        """Return the three knobs, restricted as the options say."""
        return self._choices

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return bits + (16 + bits of a zero point, if any) / group size, bits per weight."""
        return integer_storage_bits(configuration, _asymmetric(configuration))

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight.

        Args:
            weight: Floating-point weight (output features × input features).
            configuration: One of the quantizer's layer configurations.

        Returns:
            ``codes`` (output features × input features, uint8), ``scales`` (output features ×
            groups, float16) and, if asymmetric, ``zero_points`` (same, uint8).

        Raises:
            InputError: If the weight is no finite floating-point matrix, the layer configuration
                is not one of the quantizer's, or torchao is not installed.
        """
        self._choices.index(configuration)
        check_weight(weight)
        primitives = _primitives()
        size = configuration.integer("group_size")
        greatest_code = 2 ** configuration.integer("bits") - 1
        mapping = primitives.MappingType[configuration.text("scheme").upper()]
        rows, columns = weight.shape
        layout = self.layout((rows, columns), configuration)
        tensors = {
            name: torch.empty(item.shape, dtype=item.dtype, device=weight.device)
            for name, item in layout.items()
        }
        step = chunk_of(rows, columns, weight.device)
        for first in range(0, rows, step):
            part = _whole_groups(weight.detach()[first : first + step].float(), size)
            scales, zero_points = primitives.choose_qparams_affine(
                part, mapping, (1, size), torch.uint8, 0, greatest_code, eps=MIN_SCALE
            )
            scales = scales.clamp(max=torch.finfo(torch.float16).max).to(torch.float16)
            codes = primitives.quantize_affine(
                part, (1, size), scales.float(), zero_points, torch.uint8, 0, greatest_code
            )
            groups = (part.shape[0], -1)  # torchao drops the second dimension of a single group
            found = {
                "codes": codes[:, :columns],
                "scales": scales.view(groups),
                "zero_points": zero_points.view(groups),
            }
            for name, tensor in tensors.items():
                tensor[first : first + step] = found[name]
        return QuantizedTensor(tensors, (rows, columns), configuration)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features).

        Raises:
            InputError: If torchao is not installed.
        """
        primitives = _primitives()
        bits = quantized.configuration.integer("bits")
        size = quantized.configuration.integer("group_size")
        rows, columns = quantized.shape
        codes, scales = quantized.tensors["codes"], quantized.tensors["scales"]
        zero_points = quantized.tensors.get("zero_points")
        if zero_points is None:
            zero_points = torch.full_like(scales, 2 ** (bits - 1), dtype=torch.uint8)
        weight = torch.empty(quantized.shape, dtype=torch.float32, device=codes.device)
        step = chunk_of(rows, columns, codes.device)
        for first in range(0, rows, step):
            part = slice(first, first + step)
            weight[part] = primitives.dequantize_affine(
                _whole_groups(codes[part], size),
                (1, size),
                scales[part].float(),
                zero_points[part],
                torch.uint8,
                0,
                2**bits - 1,
            )[:, :columns]
        return weight

    def dequantize_rows(self, quantized: QuantizedTensor, first: int, last: int) -> Tensor:
        """Return some rows of the weight (last - first × input features), float32."""
        return self.dequantize(quantized.rows(first, last))

    def as_integers(self, quantized: QuantizedTensor) -> IntegerWeight:
        """Return a quantized weight as integers on a grid, exactly."""
        return integer_weight(quantized)

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored."""
        return integer_layout(shape, configuration, _asymmetric(configuration))


def _primitives() -> Any:
    return optional_module("torchao.quantization.quant_primitives", "torchao")


def _asymmetric(configuration: LayerConfiguration) -> bool:
    return configuration.text("scheme") == "asymmetric"


def _whole_groups(rows: Tensor, size: int) -> Tensor:
    """Return rows with zeros after them that fill the last group, which do not change its grid."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[1] % size))
