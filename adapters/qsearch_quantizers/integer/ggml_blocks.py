"""Integer weights as the blocks of ggml, which GGUF files hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qsearch.plugins.tensor_layout import IntegerWeight

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32
"""Weights that share a scale in the types Q4_0 and Q8_0."""

TYPES = {4: "Q4_0", 8: "Q8_0"}
"""ggml's type for symmetric integers, by bits."""

BLOCK_BYTES = {name: 2 + BLOCK * bits // 8 for bits, name in TYPES.items()}
"""Bytes of a block, a scale of float16 among them."""


def ggml_type(weight: IntegerWeight) -> str | None:
    """Return the name of the ggml type that holds a weight exactly, or None if there is none.

    Its scales may be repeated: a group may be several blocks.
    """
    whole = weight.codes.shape[1] % BLOCK == 0 and weight.group_size % BLOCK == 0
    return TYPES.get(weight.bits) if whole and weight.zero_points is None else None


def ggml_blocks(weight: IntegerWeight) -> Tensor:
    """Return a weight of a type that :func:`ggml_type` names, in its bytes.

    A block is its scale as float16, then its codes: of 4 bits, the first half of the block in the
    low halves of 16 bytes and the second half in the high ones; of 8 bits, signed bytes.

    Returns:
        Bytes (output features × bytes of a row), uint8, on the CPU.
    """
    import torch  # Recipes read the tables of this module, and start without torch.

    rows, columns = weight.codes.shape
    codes = weight.codes.cpu().view(rows, -1, BLOCK)
    blocks = columns // BLOCK
    scales = weight.scales.cpu().repeat_interleave(weight.group_size // BLOCK, dim=1)[:, :blocks]
    head = scales.contiguous().view(rows, blocks, 1).view(torch.uint8)
    if weight.bits == 4:
        half = BLOCK // 2
        body = codes[..., :half] | codes[..., half:] << 4
    else:
        body = (codes.to(torch.int16) - 2 ** (weight.bits - 1)).to(torch.int8).view(torch.uint8)
    return torch.cat([head, body], dim=2).view(rows, -1)
