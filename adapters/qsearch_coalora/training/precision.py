"""The number format that matrices are multiplied in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16", "auto"]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # No public function tells; oneDNN decides by the same flags.
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Return whether a device uses bfloat16 autocast under an option."""
    return precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16(device))


def autocast(bfloat16: bool, device: torch.device) -> AbstractContextManager[object]:
    """Return the context that a forward pass runs in."""
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()
