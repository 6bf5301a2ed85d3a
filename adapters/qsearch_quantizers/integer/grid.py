"""Even grids: a group's scale and zero point, and the codes of values on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """value = scale · (code - zero point), with codes from 0 to a greatest one.

    Args:
        scales: Scale of each group, float16, in a shape that broadcasts against the values.
        zero_points: Integers of the same shape, float32.
        greatest: Greatest code.
    """

    scales: Tensor
    zero_points: Tensor
    greatest: int

    @cached_property
    def _wide(self) -> Tensor:
        return self.scales.float()

    @cached_property
    def _divisor(self) -> Tensor:
        # A zero scale divides nothing, so that codes stay finite.
        return torch.where(self._wide == 0, torch.inf, self._wide)

    def encode(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the nearest code of each value (float32, any shape that broadcasts)."""
        codes = torch.div(values, self._divisor, out=out).round_()
        return codes.add_(self.zero_points).clamp_(0, self.greatest)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the value of each code (float32)."""
        return torch.sub(codes, self.zero_points).mul_(self._wide)


GridFinder = Callable[[Tensor, int], Grid]
"""Returns the grids of float32 values, each shared along a dimension, of size 1 in the grid."""


def joined(grids: Sequence[Grid]) -> Grid:
    """Return the grids of groups (1 × output features) as one (output features × groups)."""
    return Grid(
        torch.cat([grid.scales for grid in grids]).t(),
        torch.cat([grid.zero_points for grid in grids]).t(),
        grids[0].greatest,
    )


def nearest_codes(weight: Tensor, group_size: int, find_grid: GridFinder) -> tuple[Tensor, Grid]:
    """Round each weight to the nearest value of its group's grid.

    Returns:
        Codes (output features × input features) and grids (output features × groups).
    """
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -columns % group_size))
    groups = padded.view(rows, -1, group_size)
    grid = find_grid(groups, 2)
    codes = grid.encode(groups).view(padded.shape)[:, :columns]
    return codes, Grid(grid.scales.squeeze(2), grid.zero_points.squeeze(2), grid.greatest)


def symmetric_grid(values: Tensor, dim: int, bits: int) -> Grid:
    """Return grids whose signed scale gives the value of greatest magnitude code 0."""
    half = 2 ** (bits - 1)
    least, greatest = torch.aminmax(values, dim=dim, keepdim=True)
    extreme = torch.where(greatest >= -least, greatest, least)
    scales = to_float16(extreme / -half)
    zero_points = torch.full((), float(half), device=values.device).expand(scales.shape)
    return Grid(scales, zero_points, 2**bits - 1)


def asymmetric_grid(values: Tensor, dim: int, bits: int) -> Grid:
    """Return grids over the range of the values, with zero included."""
    greatest_code = 2**bits - 1
    least, greatest = torch.aminmax(values, dim=dim, keepdim=True)
    least, greatest = least.clamp(max=0), greatest.clamp(min=0)
    scales = to_float16(greatest / greatest_code - least / greatest_code)
    # Relative to zero, the lower end of the range is the code that zero has.
    unshifted = Grid(scales, torch.zeros_like(least), greatest_code)
    return Grid(scales, unshifted.encode(-least), greatest_code)


def to_float16(scales: Tensor) -> Tensor:
    """Round to float16 within its range; a scale below 2^-25 becomes zero."""
    limit = torch.finfo(torch.float16).max
    return scales.clamp(-limit, limit).to(torch.float16)
