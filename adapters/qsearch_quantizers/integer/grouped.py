"""Weights as codes of groups of a row: scale · (code - zero point), with float16 scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import Elements, IntegerWeight, TensorLayout
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.knobs import KnobQuantizer
from qsearch_quantizers.packed.bit_packing import row_positions
from qsearch_quantizers.weights import CHUNK, check_weight, chunk_of


class GroupedQuantizer(KnobQuantizer):
    """What quantizers share that store codes of groups of a row; a subclass quantizes.

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

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return bits + (16 + bits of a zero point, if any) / group size, bits per weight."""
        layouts = self.layout((1, 1), configuration)
        of_group = sum(
            layout.bits or 8 * layout.dtype.itemsize
            for name, layout in layouts.items()
            if name != "codes"
        )
        return self.bits(configuration) + of_group / self.group_size(configuration, 1)

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

    def quantize_by_rows(
        self,
        weight: Tensor,
        configuration: LayerConfiguration,
        quantize: Callable[[Tensor], Mapping[str, Tensor]],
        chunk: int = CHUNK,
    ) -> QuantizedTensor:
        """Quantize some rows of a weight at a time.

        Args:
            weight: Checked here, as the layer configuration is.
            configuration: Of the weight.
            quantize: Returns the tensors of some rows (float32), perhaps with others.
            chunk: Weights at a time on a CPU; elsewhere all.
        """
        self._choices.index(configuration)
        check_weight(weight)
        rows, columns = weight.shape
        step = chunk_of(rows, columns, weight.device, chunk)
        tensors = {
            name: torch.empty(item.shape, dtype=item.dtype, device=weight.device)
            for name, item in self.layout((rows, columns), configuration).items()
        }
        for first in range(0, rows, step):
            part = quantize(weight.detach()[first : first + step].float())
            for name, tensor in tensors.items():
                tensor[first : first + step] = part[name]
        return QuantizedTensor(tensors, (rows, columns), configuration)

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

    def integer_weight(self, quantized: QuantizedTensor) -> IntegerWeight:
        """Return a weight with integer zero points as integers on a grid, exactly."""
        return IntegerWeight(
            quantized.tensors["codes"],
            quantized.tensors["scales"],
            quantized.tensors.get("zero_points"),
            self.bits(quantized.configuration),
            self.group_size(quantized.configuration, quantized.shape[1]),
        )


def groups_of_row(columns: int, size: int) -> Iterator[tuple[slice, slice, int]]:
    """Yield the columns, groups and group length of a row's whole groups, and of the rest."""
    whole, rest = divmod(columns, size)
    if whole:
        yield slice(0, whole * size), slice(0, whole), size
    if rest:
        yield slice(whole * size, columns), slice(whole, whole + 1), rest


def _of_groups(values: Tensor) -> Tensor:
    return values.float().unsqueeze(2)
