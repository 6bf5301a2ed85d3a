"""Weights as quantizers take them: checked, and a part of their rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import TensorLayout
from qsearch.space.configuration import LayerConfiguration

CHUNK = 1 << 18
"""Weights processed at a time on the CPU: temporaries stay in cache and memory stays flat."""


def check_weight(weight: Tensor) -> None:
    """Check that a tensor can be quantized.

    Raises:
        InputError: If it is not a floating-point matrix with elements, or holds NaN or infinity.
    """
    if weight.ndim != 2 or weight.numel() == 0 or not weight.is_floating_point():
        raise InputError(
            f"weight of shape {tuple(weight.shape)} and type {weight.dtype} cannot be quantized;"
            " it must be a floating-point matrix (output features × input features)"
        )
    if not _is_finite(weight):
        raise InputError(
            f"weight of shape {tuple(weight.shape)} holds NaN or infinity; it must be finite"
        )


def check_moment(moment: Tensor, features: int) -> None:
    """Check that a tensor can be the second moment of a layer's inputs.

    Raises:
        InputError: If it is not a floating-point matrix (features × features), or holds NaN or
            infinity.
    """
    if moment.shape != (features, features) or not moment.is_floating_point():
        raise InputError(
            f"the inputs' second moment must be a floating-point matrix of shape"
            f" {(features, features)}, not of shape {tuple(moment.shape)} and type {moment.dtype}"
        )
    if not _is_finite(moment):
        raise InputError("the inputs' second moment holds NaN or infinity; it must be finite")


def chunk_of(blocks: int, block_size: int, device: torch.device) -> int:
    """Return how many blocks to process at a time: a cache's worth on a CPU, else all."""
    return max(1, CHUNK // block_size) if device.type == "cpu" else max(1, blocks)


def quantize_by_rows(
    weight: Tensor,
    configuration: LayerConfiguration,
    layout: Mapping[str, TensorLayout],
    quantize: Callable[[Tensor], Mapping[str, Tensor]],
    step: int | None = None,
) -> QuantizedTensor:
    """Quantize some rows of a weight at a time.

    Args:
        weight: Floating-point weight (output features × input features).
        configuration: Its layer configuration.
        layout: Of its tensors, each with a slice for each row.
        quantize: Returns the tensors of some rows (float32), perhaps with others.
        step: Rows at a time; by default a cache's worth on a CPU, else all.
    """
    rows, columns = weight.shape
    step = step or chunk_of(rows, columns, weight.device)
    tensors = {
        name: torch.empty(item.shape, dtype=item.dtype, device=weight.device)
        for name, item in layout.items()
    }
    for first in range(0, rows, step):
        part = quantize(weight.detach()[first : first + step].float())
        for name, tensor in tensors.items():
            tensor[first : first + step] = part[name]
    return QuantizedTensor(tensors, (rows, columns), configuration)


def _is_finite(values: Tensor) -> bool:
    # These carry NaN and infinity through, and need no temporary of the values' size.
    least, greatest = values.detach().aminmax()
    return bool(least.isfinite()) and bool(greatest.isfinite())
