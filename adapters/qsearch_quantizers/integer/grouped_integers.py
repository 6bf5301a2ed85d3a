"""What quantizers store that round to an even grid by groups of a row, with float16 scales."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import IntegerWeight, TensorLayout
from qsearch.space.configuration import LayerConfiguration

SCALE_BITS = 16


def integer_storage_bits(configuration: LayerConfiguration, asymmetric: bool) -> float:
    """Return bits + (16 + bits of a zero point, if any) / group size, bits per weight."""
    bits = configuration.integer("bits")
    zero_point_bits = bits if asymmetric else 0
    return bits + (SCALE_BITS + zero_point_bits) / configuration.integer("group_size")


def integer_layout(
    shape: tuple[int, int], configuration: LayerConfiguration, asymmetric: bool
) -> Mapping[str, TensorLayout]:
    """Return how the tensors of a weight are stored.

    Args:
        shape: Shape of the weight, (output features, input features).
        configuration: Its layer configuration, with ``bits`` and ``group_size``.
        asymmetric: Whether groups have zero points.
    """
    bits = configuration.integer("bits")
    groups = (shape[0], -(-shape[1] // configuration.integer("group_size")))
    layout = {
        "codes": TensorLayout(shape, torch.uint8, bits),
        "scales": TensorLayout(groups, torch.float16, None),
    }
    if asymmetric:
        layout["zero_points"] = TensorLayout(groups, torch.uint8, bits)
    return layout


def integer_weight(quantized: QuantizedTensor) -> IntegerWeight:
    """Return a weight that is stored so as integers on a grid, exactly."""
    return IntegerWeight(
        quantized.tensors["codes"],
        quantized.tensors["scales"],
        quantized.tensors.get("zero_points"),
        quantized.configuration.integer("bits"),
        quantized.configuration.integer("group_size"),
    )
