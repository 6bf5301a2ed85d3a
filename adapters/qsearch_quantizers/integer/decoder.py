"""Reading weights that are codes of groups of a row: scale · (code - zero point)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import (
    Elements,
    IntegerWeight,
    LevelWeight,
    TensorLayout,
)
from qsearch.space.configuration import KnobValue, LayerConfiguration
from qsearch_quantizers.decoding import KnobDecoder, Knobs
from qsearch_quantizers.packed.bit_packing import row_positions
from qsearch_quantizers.weights import chunk_of

SCHEMES = ("symmetric", "asymmetric")


class GroupedDecoder(KnobDecoder):
    """What quantizers share that store codes of groups of a row.

    A group is ``group_size`` neighbouring weights of one row (one output feature); the last group
    of a row is shorter where the size does not divide the input features. Tensors are ``codes``
    (output features × input features, uint8), ``scales`` (output features × groups, float16) and
    perhaps ``zero_points`` (same shape).
    """

    def bits(self, configuration: LayerConfiguration) -> int:
        """Return the bits of a code: the knob ``bits``."""
        return configuration.integer("bits")

    def group_size(self, configuration: LayerConfiguration, columns: int) -> int:
        """Return the size of a group in rows of some length: the knob ``group_size``."""
        return configuration.integer("group_size")

    def zero_points(self, configuration: LayerConfiguration) -> torch.dtype | None:
        """Return the type of zero points: uint8 for codes; None where all are 2^(bits - 1)."""
        raise NotImplementedError

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored."""
        bits = self.bits(configuration)
        groups = (shape[0], -(-shape[1] // self.group_size(configuration, shape[1])))
        layout = {
            "codes": TensorLayout(shape, torch.uint8, bits),
            "scales": TensorLayout(groups, torch.float16, None),
        }
        zero_points = self.zero_points(configuration)
        if zero_points is not None:
            own_bits = bits if zero_points == torch.uint8 else None
            layout["zero_points"] = TensorLayout(groups, zero_points, own_bits)
        return layout

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features)."""
        rows, columns = quantized.shape
        size = self.group_size(quantized.configuration, columns)
        middle = 2.0 ** (self.bits(quantized.configuration) - 1)
        codes, scales = quantized.tensors["codes"], quantized.tensors["scales"]
        zero_points = quantized.tensors.get("zero_points")
        weight = torch.empty(quantized.shape, dtype=torch.float32, device=codes.device)
        step = chunk_of(rows, columns, codes.device)
        for first in range(0, rows, step):
            part = slice(first, first + step)
            for inside, groups, length in groups_of_row(columns, size):
                values = codes[part, inside].float()
                grouped = values.view(len(values), -1, length)
                zero = middle if zero_points is None else _of_groups(zero_points[part, groups])
                grouped.sub_(zero).mul_(_of_groups(scales[part, groups]))
                weight[part, inside] = values
        return weight

    def dequantize_rows(self, quantized: QuantizedTensor, first: int, last: int) -> Tensor:
        """Return some rows of the weight (last - first × input features), float32."""
        return self.dequantize(quantized.rows(first, last))

    def look_up(
        self,
        elements: Mapping[str, Elements],
        shape: tuple[int, int],
        configuration: LayerConfiguration,
        rows: Tensor,
    ) -> Tensor:
        """Return some rows of the weight (rows × input features), float32."""
        tensors = {
            name: elements[name](row_positions(rows, layout.shape[1]))
            for name, layout in self.layout(shape, configuration).items()
        }
        return self.dequantize(QuantizedTensor(tensors, (len(rows), shape[1]), configuration))

    def as_levels(self, quantized: QuantizedTensor) -> LevelWeight | None:
        """Return a quantized weight as levels of codes, exactly."""
        columns, bits = quantized.shape[1], self.bits(quantized.configuration)
        size = self.group_size(quantized.configuration, columns)
        zero_points = quantized.tensors.get("zero_points")
        if zero_points is None:
            zero_points = torch.full_like(quantized.tensors["scales"], 2.0 ** (bits - 1))
        # A last group that is shorter is several of a size that divides it.
        common = math.gcd(size, columns)
        starts = torch.arange(0, columns, common) // size
        return LevelWeight(
            quantized.tensors["codes"],
            quantized.tensors["scales"][:, starts],
            zero_points[:, starts],
            None,
            bits,
            common,
        )

    def integer_weight(self, quantized: QuantizedTensor) -> IntegerWeight:
        """Return a weight with integer zero points as integers on a grid, exactly."""
        return IntegerWeight(
            quantized.tensors["codes"],
            quantized.tensors["scales"],
            quantized.tensors.get("zero_points"),
            self.bits(quantized.configuration),
            self.group_size(quantized.configuration, quantized.shape[1]),
        )


class IntegerDecoder(GroupedDecoder):
    """Reads integers; those without a zero point of their own have 2^(bits - 1)."""

    name = "integer"
    KNOBS: ClassVar[Knobs] = {
        "bits": (2, 3, 4, 8),
        "group_size": (32, 64, 128),
        "scheme": SCHEMES,
    }
    DEFAULTS: ClassVar[Mapping[str, Any]] = {"scheme": SCHEMES[0]}
    UNREAD = frozenset({"rounding", "fit_scales", "dampening"})
    _scheme: KnobValue | None = None
    """That of all weights; None if it is a knob."""

    def knob_values(self, options: Mapping[str, Any]) -> dict[str, tuple[KnobValue, ...]]:
        """Return the values of each knob; the scheme is one only if there are several."""
        scheme = options["scheme"]
        schemes = [scheme] if isinstance(scheme, str) else scheme
        values = super().knob_values({**options, "scheme": schemes})
        if len(values["scheme"]) == 1:
            (self._scheme,) = values.pop("scheme")
        return values

    def zero_points(self, configuration: LayerConfiguration) -> torch.dtype | None:
        """Return uint8 for the asymmetric scheme."""
        return torch.uint8 if self.is_asymmetric(configuration) else None

    def is_asymmetric(self, configuration: LayerConfiguration) -> bool:
        """Return whether groups have zero points of their own."""
        return (self._scheme or configuration.text("scheme")) == SCHEMES[1]


def groups_of_row(columns: int, size: int) -> Iterator[tuple[slice, slice, int]]:
    """Yield the columns, groups and group length of a row's whole groups, and of the rest."""
    whole, rest = divmod(columns, size)
    if whole:
        yield slice(0, whole * size), slice(0, whole), size
    if rest:
        yield slice(whole * size, columns), slice(whole, whole + 1), rest


def _of_groups(values: Tensor) -> Tensor:
    return values.float().unsqueeze(2)
