"""Weights as quantizers take them: checked, and a part of their rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from qsearch.errors import InputError

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


def check_moment(moment: Tensor, features: int, diagonal: bool = False) -> None:
    """Check that a tensor can be the second moment of a layer's inputs, or its diagonal.

    Raises:
        InputError: If it is not a floating-point matrix (features × features), or a vector of
            features, or holds NaN or infinity.
    """
    shape = (features,) * (1 if diagonal else 2)
    if moment.shape != shape or not moment.is_floating_point():
        raise InputError(
            f"the inputs' second moment must be a floating-point tensor of shape {shape}, not of"
            f" shape {tuple(moment.shape)} and type {moment.dtype}"
        )
    if not _is_finite(moment):
        raise InputError("the inputs' second moment holds NaN or infinity; it must be finite")


def chunk_of(blocks: int, block_size: int, device: torch.device, chunk: int = CHUNK) -> int:
    """Return how many blocks to process at a time: a chunk of weights on a CPU, else all."""
    return max(1, chunk // block_size) if device.type == "cpu" else max(1, blocks)


def _is_finite(values: Tensor) -> bool:
    # These carry NaN and infinity through, and need no temporary of the values' size.
    least, greatest = values.detach().aminmax()
    return bool(least.isfinite()) and bool(greatest.isfinite())
