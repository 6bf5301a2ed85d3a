"""Codes of blocks of a flattened weight, each block with one scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qsearch_quantizers.normal_float.levels import (
    LevelTable,
    decode,
    decode_packed,
    encode,
    level_table,
)
from qsearch_quantizers.normal_float.nf4_operator import nf4_operator
from qsearch_quantizers.packed.bit_packing import codes_at, pack, packed_bytes, unpack
from qsearch_quantizers.weights import chunk_of

TINY = torch.finfo(torch.float32).tiny


def nf_decode(
    codes: Tensor, scales: Tensor, bits: int, block_size: int, shape: tuple[int, ...]
) -> Tensor:
    """Return levels times scales (float32) of packed codes and the scale of each block."""
    count = math.prod(shape)
    whole = count // block_size
    decode_nf4 = nf4_operator(codes.device) if bits == 4 and whole else None
    if decode_nf4 is not None and whole * block_size == count:
        return decode_nf4(codes, scales, block_size).view(shape)
    weight = torch.empty(shape, dtype=torch.float32, device=codes.device)
    flat = weight.view(-1)
    step = chunk_of(whole, block_size, codes.device)
    for first in range(0, whole, step):
        last = min(first + step, whole)
        part = flat[first * block_size : last * block_size]
        some = codes[first * block_size * bits // 8 : last * block_size * bits // 8]
        decode_packed(some, bits, part)
        part.view(-1, block_size).mul_(scales[first:last].unsqueeze(1))
    rest = flat[whole * block_size :]
    if rest.numel():
        last_bytes = codes[whole * block_size * bits // 8 :]
        some = unpack(halves_swapped(last_bytes, bits), bits, rest.numel())
        rest.copy_(level_table(bits, codes.device).levels[some.long()] * scales[whole])
    return weight


def levels_at(byte_at: Callable[[Tensor], Tensor], bits: int, positions: Tensor) -> Tensor:
    """Return the levels (float32) of the codes at positions of packed bytes."""
    codes = codes_at(lambda at: halves_swapped(byte_at(at), bits), bits, positions)
    return level_table(bits, positions.device).levels[codes.long()]


def least_error_codes(
    blocks: Tensor, upper: Tensor, lower: Tensor, table: LevelTable
) -> tuple[Tensor, Tensor]:
    """Return the codes of the better of two scales by block, and where it is the lower one."""
    candidates = []
    for scales in (upper, lower):
        scaled = blocks * scales.clamp(min=TINY).reciprocal().unsqueeze(1)
        codes = encode(scaled.clamp(-1, 1), table)
        error = torch.linalg.vector_norm(decode(codes, table).sub_(scaled), dim=1) * scales
        candidates.append((codes, error))
    (upper_codes, upper_error), (lower_codes, lower_error) = candidates
    use_lower = lower_error < upper_error
    return torch.where(use_lower.unsqueeze(1), lower_codes, upper_codes), use_lower


def absolute_maxima(flat: Tensor, block_size: int) -> Tensor:
    blocks = -(-flat.numel() // block_size)
    absmax = torch.empty(blocks, dtype=torch.float32, device=flat.device)
    step = chunk_of(blocks, block_size, flat.device)
    for first in range(0, blocks, step):
        part = blocks_of(flat, first, step, block_size)
        torch.amax(part.abs(), dim=1, out=absmax[first : first + step])
    return absmax


def empty_codes(flat: Tensor, bits: int) -> Tensor:
    size = packed_bytes(flat.numel(), bits)
    return torch.empty(size, dtype=torch.uint8, device=flat.device)


def blocks_of(flat: Tensor, first: int, count: int, block_size: int) -> Tensor:
    """Return up to ``count`` blocks as float32 rows; zeros fill the last one."""
    part = flat[first * block_size : (first + count) * block_size].float()
    return torch.nn.functional.pad(part, (0, -part.numel() % block_size)).view(-1, block_size)


def pack_blocks(blocks: Tensor, bits: int, packed: Tensor, first: int, count: int) -> None:
    """Pack the codes of blocks (blocks × block size) from block ``first`` on; ``count`` are all."""
    start = first * blocks.shape[1]
    some = halves_swapped(pack(blocks.view(-1)[: count - start], bits), bits)
    packed[start * bits // 8 :][: some.numel()].copy_(some)


def halves_swapped(packed: Tensor, bits: int) -> Tensor:
    """Return bytes of 4-bit codes with their halves swapped, as bitsandbytes has them."""
    return (packed << 4).bitwise_or_(packed >> 4) if bits == 4 else packed
