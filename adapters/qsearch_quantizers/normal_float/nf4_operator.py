"""bitsandbytes' decoding of 4-bit normal float, where it is installed.

On the CPU it takes a third of the time that lookups of PyTorch take, and gives the same weights bit
for bit: a level times a scale, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from qsearch_quantizers.libraries.optional import is_importable

ROWS = 64
"""Rows that a weight is decoded in, where it has that many times some blocks."""

Decode = Callable[[Tensor, Tensor, int], Tensor]
"""Called with packed codes (bytes, uint8), scales (blocks, float32) and the block size; returns
levels times scales (weights), float32."""


def nf4_operator(device: torch.device) -> Decode | None:
    """Return bitsandbytes' operator for a device, or None where it is not to be had."""
    return _on_the_cpu() if device.type == "cpu" else None


@lru_cache(maxsize=1)
def _on_the_cpu() -> Decode | None:
    if not is_importable("bitsandbytes"):  # It registers its operators when it is imported.
        return None
    try:
        operator = torch.ops.bitsandbytes.dequantize_4bit.default
    except AttributeError:  # An earlier version has none.
        return None

    def decode(codes: Tensor, scales: Tensor, block_size: int) -> Tensor:
        # Not in the weight's shape: rows that are no whole blocks would be decoded wrongly, and
        # threads share out rows.
        rows = math.gcd(scales.numel(), ROWS)
        shape = (rows, scales.numel() // rows * block_size)
        weights: Tensor = operator(codes, scales, block_size, "nf4", shape, torch.float32)
        return weights.view(-1)

    return decode
