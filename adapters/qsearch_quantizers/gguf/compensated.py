"""Codes of ggml's types whose blocks of 32 weights have one scale, rounded as GPTQ does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qsearch_quantizers.gguf.ggml_library import dequantize_rows, quantize_rows
from qsearch_quantizers.gguf.ggml_types import GGMLType
from qsearch_quantizers.gptq import compensated_codes


@dataclass(frozen=True)
class CodeBytes:
    """Where a block of 32 weights has its codes.

    Args:
        low: The byte at which 16 bytes begin: the low half of each is the low half of a weight's
            code, its high half that of the weight 16 places further.
        high: The byte at which the fifth bits of the codes begin, one bit a weight, if it has any.
    """

    low: int
    high: int | None = None

    @property
    def count(self) -> int:
        """How many codes there are."""
        return 16 if self.high is None else 32

    def write(self, blocks: Tensor, codes: Tensor) -> None:
        """Write codes (rows × blocks × 32, uint8) into blocks (rows × blocks × bytes), in place."""
        halves = codes & 15
        blocks[..., self.low : self.low + 16] = halves[..., :16] | halves[..., 16:] << 4
        if self.high is not None:
            bits = (codes >> 4).view(*codes.shape[:-1], 4, 8) << torch.arange(8, dtype=torch.uint8)
            blocks[..., self.high : self.high + 4] = bits.sum(dim=-1, dtype=torch.uint8)


CODES = {
    "MXFP4": CodeBytes(1),
    "Q4_0": CodeBytes(2),
    "IQ4_NL": CodeBytes(2),
    "Q4_1": CodeBytes(4),
    "Q5_0": CodeBytes(6, 2),
    "Q5_1": CodeBytes(8, 4),
}
"""Types that are rounded so. With 8 bits there is little to gain; the types of larger blocks have
scales within scales."""


@dataclass(frozen=True)
class BlockLevels:
    """The values that the weights of one block of each row can have.

    Args:
        block: The rows' blocks as ggml quantizes them by themselves (rows × bytes).
        levels: Values by code (rows × codes).
    """

    block: Tensor
    levels: Tensor

    def encode(self, values: Tensor, out: Tensor) -> Tensor:
        """Write the codes of the nearest values of a column (1 × output features) to ``out``."""
        nearest = (self.levels - values.t()).abs_().argmin(dim=1)
        return out.copy_(nearest[None])

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of codes, float32."""
        return self.levels.gather(1, codes.long().t()).t()


def compensated_blocks(
    kind: GGMLType, weight: Tensor, importance: Tensor, factor: Tensor
) -> Tensor:
    """Return a weight's blocks, with codes that make up for the errors of those before them.

    ggml finds the scales of each block when it is reached, for the weights as they are compensated
    by then.

    Args:
        kind: One of :data:`CODES`.
        weight: Float32 values (rows × columns) on the CPU.
        importance: Weights of the squared errors of each column (columns).
        factor: That of :func:`~qsearch_quantizers.gptq.feedback_factor` (columns × columns).

    Returns:
        Bytes (rows × bytes of a row), uint8.
    """
    place = CODES[kind.name]
    codes = torch.arange(kind.block, dtype=torch.uint8) % place.count

    def find_levels(values: Tensor, column: int) -> BlockLevels:
        own = importance[column : column + kind.block].contiguous()
        block = quantize_rows(kind, values.t().contiguous(), own)
        every = block.clone()
        place.write(every, codes.expand(len(block), -1))
        return BlockLevels(block, dequantize_rows(kind, every)[:, : place.count])

    found, grids = compensated_codes(factor, weight, kind.block, find_levels)
    blocks = torch.stack([grid.block for grid in grids], dim=1)
    place.write(blocks, found.reshape(len(weight), -1, kind.block))
    return blocks.view(len(weight), -1)
