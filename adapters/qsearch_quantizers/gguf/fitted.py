"""Scales in the blocks of ggml's types, made to suit a layer's inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from qsearch_quantizers.fitted_scales import scale_factors
from qsearch_quantizers.gguf.ggml_library import dequantize_rows
from qsearch_quantizers.gguf.ggml_types import GGMLType
from qsearch_quantizers.integer.grid import to_float16


def fitted_blocks(
    kind: GGMLType, blocks: Tensor, weight: Tensor, moment: Tensor, dampening: float
) -> Tensor:
    """Return blocks (rows × bytes of a row) with scales that suit their codes.

    Those are the float16 numbers that all weights of a block are multiples of; scales of parts of
    a block stay. See :func:`~qsearch_quantizers.fitted_scales.scale_factors`.
    """
    if not kind.scales:
        return blocks
    whole = dequantize_rows(kind, blocks)
    parts = [whole]
    if len(kind.scales) == 2:  # Of multiples, and of what is added to them.
        multiples = blocks.clone()
        _numbers(kind, multiples, kind.scales[1]).zero_()
        parts = [dequantize_rows(kind, multiples)]
        parts.append(whole - parts[0])
    factors = scale_factors(weight, parts, moment, kind.block, dampening)
    result = blocks.clone()
    for place, own in zip(kind.scales, factors, strict=True):
        numbers = _numbers(kind, result, place)
        before = numbers.contiguous().view(torch.float16).float().squeeze(2)
        numbers.copy_(to_float16(before * own).unsqueeze(2).view(torch.uint8))
    return result


def _numbers(kind: GGMLType, blocks: Tensor, place: int) -> Tensor:
    """Return the bytes of a float16 number of each block, in place (rows × blocks × 2)."""
    return blocks.view(len(blocks), -1, kind.nbytes)[:, :, place : place + 2]
