"""Codes of 1 to 8 bits packed into bytes.

Codes follow one another without gaps, least significant bits first: code i occupies bits
``i·bits`` to ``(i+1)·bits - 1`` of the byte stream. The last byte is filled with zeros. Eight codes
at a time are moved inside one 64-bit word, in the little-endian order of safetensors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import PackableQuantizer, TensorLayout

CHUNK = 1 << 18
"""Codes packed at a time; a multiple of the 8 codes that always fill whole bytes."""


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that ``count`` codes take."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes (uint8, of any shape) into bytes (⌈count·bits/8⌉, uint8).

    Raises:
        InputError: If the bits are out of range, or the codes are not uint8 or do not fit.
    """
    if not 1 <= bits <= 8:
        raise InputError(f"bits must be 1 to 8, not {bits}")
    if codes.dtype != torch.uint8:
        raise InputError(f"codes must be uint8, not {codes.dtype}")
    if codes.numel() and int(codes.max()) >= 2**bits:
        raise InputError(f"code {int(codes.max())} does not fit into {bits} bits")
    flat = codes.contiguous().view(-1)
    if bits == 8:
        return flat.clone()
    packed = torch.empty(packed_bytes(flat.numel(), bits), dtype=torch.uint8, device=codes.device)
    for first in range(0, flat.numel(), CHUNK):
        part = flat[first : first + CHUNK]
        words = torch.nn.functional.pad(part, (0, -part.numel() % 8)).view(torch.int64)
        # neighbours join: eight codes become four pairs, two fours, and one word
        for joined in (1, 2, 4):
            even, odd = _fields(joined, bits)
            moved = (words >> joined * (8 - bits)).bitwise_and_(odd)
            words = (words & even).bitwise_or_(moved)
        some = words.view(torch.uint8).view(-1, 8)[:, :bits].reshape(-1)
        into = packed[first * bits // 8 : packed_bytes(first + CHUNK, bits)]
        into.copy_(some[: into.numel()])
    return packed


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the codes (count, uint8) that :func:`pack` packed; InputError if they do not fit."""
    if packed.dtype != torch.uint8 or packed.shape != (packed_bytes(count, bits),):
        raise InputError(
            f"{count} codes of {bits} bits take {packed_bytes(count, bits)} bytes of type uint8,"
            f" not {packed.dtype} of shape {tuple(packed.shape)}"
        )
    if bits == 8:
        return packed.clone()
    codes = torch.empty(count, dtype=torch.uint8, device=packed.device)
    for first in range(0, count, CHUNK):
        part = packed[first * bits // 8 : packed_bytes(first + CHUNK, bits)]
        groups = torch.nn.functional.pad(part, (0, -part.numel() % bits)).view(-1, bits)
        words = torch.zeros(groups.shape[0], dtype=torch.int64, device=packed.device)
        for position in range(bits):
            words.bitwise_or_(groups[:, position].long() << 8 * position)
        for joined in (4, 2, 1):
            even, odd = _fields(joined, bits)
            moved = (words & odd).bitwise_left_shift_(joined * (8 - bits))
            words.bitwise_and_(even).bitwise_or_(moved)
        into = codes[first : first + CHUNK]
        into.copy_(words.view(torch.uint8)[: into.numel()])
    return codes


def row_positions(rows: Tensor, columns: int) -> Tensor:
    """Return the flat positions of a matrix's elements in some rows (rows × columns)."""
    return rows[:, None] * columns + torch.arange(columns, device=rows.device)


def elements_at(stored: Tensor, bits: int | None, positions: Tensor) -> Tensor:
    """Return elements of a stored tensor, codes of some bits if it is packed, at flat positions.

    The result has the positions' shape.
    """
    flat = stored.reshape(-1)
    return flat[positions] if bits is None else codes_at(flat.__getitem__, bits, positions)


def codes_at(byte_at: Callable[[Tensor], Tensor], bits: int, positions: Tensor) -> Tensor:
    """Return the codes (uint8) at positions (int64) of packed bytes, which are asked for alone."""
    if bits == 8:
        return byte_at(positions)
    first = positions * bits
    words = byte_at(first >> 3).int()
    if 8 % bits:
        # A code's last bit may be in the next byte; of one that is whole, its own is read again.
        words |= byte_at((first + bits - 1) >> 3).int() << 8
    codes = (words >> (first & 7).int()) & (1 << bits) - 1
    return codes.to(torch.uint8)


def packed_layout(layout: TensorLayout) -> TensorLayout:
    """Return how a tensor is stored on disk: codes as bytes, the rest as it is."""
    if layout.bits is None:
        return layout
    return TensorLayout((packed_bytes(layout.count, layout.bits),), torch.uint8, None)


def unpacked(stored: Tensor, layout: TensorLayout) -> Tensor:
    """Return a tensor of :func:`packed_layout` as its quantizer has it."""
    if layout.bits is None:
        return stored
    return unpack(stored, layout.bits, layout.count).view(layout.shape)


def packed_tensors(quantized: QuantizedTensor, quantizer: PackableQuantizer) -> dict[str, Tensor]:
    """Return a quantized weight's tensors as they are stored on disk, by name."""
    layouts = quantizer.layout(quantized.shape, quantized.configuration)
    return {
        name: tensor if (bits := layouts[name].bits) is None else pack(tensor, bits)
        for name, tensor in quantized.tensors.items()
    }


def _fields(joined: int, bits: int) -> tuple[int, int]:
    """Return masks of a word: where ``joined`` codes stand without gaps, and their neighbours."""
    ones = (1 << joined * bits) - 1
    even = sum(ones << shift for shift in range(0, 64, 16 * joined))
    return even, even << joined * bits
