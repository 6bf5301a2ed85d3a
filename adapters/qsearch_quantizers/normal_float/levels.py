"""Normal-float levels, exact nearest-level coding, and decoding of packed codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

QUANTILE_OFFSET = 0.9677083
"""Outermost quantile of the normal distribution, as in QLoRA (arXiv:2305.14314)."""

CELLS = 2048
"""Cells of the lookup over [-1, 1]; finer than the least gap of the 8-bit levels."""

_PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Of tables: neither the process's default type nor its default device may change them."""


@dataclass(frozen=True)
class LevelTable:
    """Sorted levels in [-1, 1] and the lookup that finds the nearest one.

    The interval is cut into cells, none of which holds two midpoints between levels. A value's
    code is then the number of midpoints in the cells below its own, plus one if it exceeds the
    midpoint in its own cell. That is exact, because the cell is a monotone function of the
    value, and costs two lookups whatever the number of levels (a bisection mispredicts a
    branch per bit).

    Args:
        levels: Levels in increasing order (2^bits), float32.
        pairs: Levels of two neighbouring codes, by ``first code + 256 × second code``, each
            pair one 8-byte element, so that decoding needs half the lookups.
        midpoint: Midpoint that lies in each cell, or infinity (cells + 1).
        below: Number of midpoints below each cell (cells + 1), uint8.
    """

    levels: Tensor
    pairs: Tensor
    midpoint: Tensor
    below: Tensor


def normal_float_levels(bits: int) -> Tensor:
    """Return the normal-float levels, in increasing order.

    Quantiles of the normal distribution at equal steps from :data:`QUANTILE_OFFSET` to ½:
    2^(bits-1) positive ones, 2^(bits-1)-1 negative ones and zero, divided by the greatest, so
    that -1, 0 and 1 are levels (QLoRA, arXiv:2305.14314). With 4 bits this is bitsandbytes'
    NF4 table.

    Args:
        bits: 2 or more.
    """
    half = 2 ** (bits - 1)

    def quantiles(count: int) -> Tensor:
        # float32 steps, as in the published table: other roundings move levels by 1e-7
        steps = torch.linspace(QUANTILE_OFFSET, 0.5, count + 1, **_PLAIN)[:-1]
        values: Tensor = torch.special.ndtri(steps.double())
        return values.float().double()

    positive = quantiles(half)
    values = torch.cat([positive, torch.zeros_like(positive[:1]), -quantiles(half - 1)])
    return (values.sort().values / values.max()).float()


@lru_cache(maxsize=16)
def level_table(bits: int, device: torch.device) -> LevelTable:
    """Return the normal-float levels of 2 to 8 bits with their lookups, on a device."""
    levels = normal_float_levels(bits)
    midpoints = (levels[1:] + levels[:-1]) / 2
    cells = _cell(midpoints)
    assert bool((cells.diff() > 0).all()), "a cell holds two midpoints"
    midpoint = torch.full((CELLS + 1,), torch.inf, **_PLAIN)
    midpoint[cells.long()] = midpoints
    every_cell = torch.arange(CELLS + 1, dtype=torch.int32, device="cpu")
    below = torch.searchsorted(cells, every_cell).to(torch.uint8)
    return LevelTable(
        levels.to(device),
        _grouped(levels, 8, 2).to(device),
        midpoint.to(device),
        below.to(device),
    )


def encode(values: Tensor, table: LevelTable) -> Tensor:
    """Return the code (uint8) of the nearest level of each value; a tie takes the lower level.

    Values are contiguous float32 in [-1, 1], of any shape.
    """
    cell = _cell(values.reshape(-1))
    above = values.reshape(-1) > table.midpoint.index_select(0, cell)
    return table.below.index_select(0, cell).add_(above).view(values.shape)


def decode(codes: Tensor, table: LevelTable) -> Tensor:
    """Return the level (float32) of each code; codes are contiguous uint8, an even number."""
    index = codes.view(-1).view(torch.uint16).to(torch.int32)
    return table.pairs.index_select(0, index).view(torch.float32).view(codes.shape)


@lru_cache(maxsize=16)
def group_levels(bits: int, device: torch.device) -> Tensor:
    """Return the levels of several neighbouring codes, by their bits in :func:`decode_packed`.

    Elements (2^(bits·codes)) have 4 bytes a code: four codes of 2 or 3 bits, two of 4 or 8, so that
    one lookup decodes all of them.
    """
    grouped = _grouped(normal_float_levels(bits), bits, 4 if bits <= 3 else 2)
    if bits == 4:  # The first code of a byte is in its high half.
        grouped = grouped.view(16, 16).T.flatten()
    return grouped.to(device)


def decode_packed(packed: Tensor, bits: int, levels: Tensor) -> None:
    """Write the level of each packed code.

    Args:
        packed: Whole groups of 8 codes from :func:`~qsearch_quantizers.packed.bit_packing.pack`,
            uint8; bytes of 4-bit codes with their halves swapped.
        bits: 2, 3, 4 or 8.
        levels: Where to: contiguous float32, one element a code.
    """
    table = group_levels(bits, packed.device)
    groups = levels.view(table.dtype)
    if bits == 3:
        low, middle, high = packed.view(-1, 3).int().unbind(dim=1)
        words = low.add(middle, alpha=1 << 8).add_(high, alpha=1 << 16)
        torch.index_select(table, 0, words & 0xFFF, out=groups[0::2])
        torch.index_select(table, 0, words >> 12, out=groups[1::2])
    else:
        index = packed.view(torch.uint16) if bits == 8 else packed
        torch.index_select(table, 0, index.int(), out=groups)


def _grouped(levels: Tensor, spacing: int, codes: int) -> Tensor:
    """Return the levels of 2 or 4 codes, ``spacing`` bits apart, by the integer that they make."""
    last = levels.numel() - 1
    count = 1 + sum(last << spacing * place for place in range(codes))
    together = torch.arange(count, device="cpu")
    places = [together >> spacing * place & 2**spacing - 1 for place in range(codes)]
    # Integers between those that codes make get some level too.
    single = torch.stack(places, dim=1).clamp_(max=last)
    return levels[single].view(torch.complex128 if codes == 4 else torch.float64).flatten()


def _cell(values: Tensor) -> Tensor:
    return values.add(1).mul_(CELLS / 2).to(torch.int32)
