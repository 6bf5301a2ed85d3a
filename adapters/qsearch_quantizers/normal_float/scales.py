"""Scales of blocks as codes: multiples of a part of their scale block's greatest one."""

from __future__ import annotations

import torch
from torch import Tensor

from qsearch.space.configuration import LayerConfiguration

DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}

TINY = torch.finfo(torch.float32).tiny


def quantize_scales(
    absmax: Tensor, configuration: LayerConfiguration, nearest: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the scale codes at or above each absolute maximum, and the scale blocks' maxima.

    Or the codes nearest to scales.
    """
    size = configuration.integer("scale_block_size")
    dtype = DTYPES[configuration.text("scale_dtype")]
    steps = 2 ** configuration.integer("scale_bits")
    padded = torch.nn.functional.pad(absmax, (0, -absmax.numel() % size)).view(-1, size)
    greatest = padded.amax(dim=1)
    # a narrow dtype may neither overflow nor turn a scale block that has weights into zeros
    smallest = torch.finfo(dtype).smallest_normal
    scales = greatest.clamp(smallest, torch.finfo(dtype).max).to(dtype)
    scales = torch.where(greatest > 0, scales, torch.zeros_like(scales))
    ratio = padded / scales.float().clamp(min=TINY).unsqueeze(1)
    multiples = (ratio * steps).round_() if nearest else (ratio * steps).ceil_()
    codes = multiples.sub_(1).clamp_(0, steps - 1).to(torch.uint8)
    return codes.view(-1)[: absmax.numel()].clone(), scales


def shrunk(codes: Tensor, factor: float) -> Tensor:
    """Return the codes of scales about ``factor`` times as large, and at least one step less."""
    shrunk = (codes.float().add_(1) * factor).round_().sub_(1)
    return torch.minimum(shrunk, codes.float().sub_(1)).clamp_(min=0).to(torch.uint8)


def block_scales(codes: Tensor, scales: Tensor, configuration: LayerConfiguration) -> Tensor:
    """Return the scale of each block (blocks), float32."""
    size = configuration.integer("scale_block_size")
    units = scales.float() / 2 ** configuration.integer("scale_bits")
    multiples = codes.float().add_(1)
    whole = multiples.numel() // size
    multiples[: whole * size].view(whole, size).mul_(units[:whole].unsqueeze(1))
    if whole * size < multiples.numel():
        multiples[whole * size :].mul_(units[whole:])
    return multiples
