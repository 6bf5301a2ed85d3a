"""Codes of 1 to 8 bits packed into bytes.

Codes follow one another without gaps, least significant bits first: code i occupies bits
``i·bits`` to ``(i+1)·bits - 1`` of the byte stream. The last byte is filled with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from qsearch.configuration import LayerConfiguration
from qsearch.errors import InputError
from qsearch.plugins import QuantizedTensor
from qsearch_quantizers.layout import PackableQuantizer, TensorLayout

CHUNK = 1 << 18
"""Codes packed at a time; a multiple of the 8 codes that always fill whole bytes."""


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that ``count`` codes take."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes into bytes.

    Args:
        codes: Codes of any shape, uint8, each below 2^bits.
        bits: 1 to 8.

    Returns:
        Bytes (⌈count·bits/8⌉), uint8.

    Raises:
        InputError: If the bits are out of range, or the codes are not uint8 or do not fit.
    """
    _check_bits(bits)
    if codes.dtype != torch.uint8:
        raise InputError(f"codes must be uint8, not {codes.dtype}")
    if codes.numel() and int(codes.max()) >= 2**bits:
        raise InputError(f"code {int(codes.max())} does not fit into {bits} bits")
    flat = codes.contiguous().view(-1)
    if bits == 8:
        return flat.clone()
    per_group, group_bytes, word = _group(bits)
    shifts = bits * torch.arange(per_group, device=codes.device)
    byte_shifts = 8 * torch.arange(group_bytes, device=codes.device)
    packed = torch.empty(packed_bytes(flat.numel(), bits), dtype=torch.uint8, device=codes.device)
    for first in range(0, flat.numel(), CHUNK):
        part = flat[first : first + CHUNK]
        part = torch.nn.functional.pad(part, (0, -part.numel() % per_group)).view(-1, per_group)
        # codes occupy distinct bits, so their sum is their union
        words = (part.to(word) << shifts.to(word)).sum(dim=1, dtype=word)
        some = (words.unsqueeze(1) >> byte_shifts.to(word)) & 255
        into = packed[first * bits // 8 : packed_bytes(first + CHUNK, bits)]
        into.copy_(some.view(-1)[: into.numel()])
    return packed


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the codes that :func:`pack` packed.

    Args:
        packed: Bytes, uint8.
        bits: 1 to 8.
        count: Number of codes.

    Returns:
        Codes (count), uint8.

    Raises:
        InputError: If the bits are out of range, or the bytes are not those of ``count`` codes.
    """
    _check_bits(bits)
    if packed.dtype != torch.uint8 or packed.shape != (packed_bytes(count, bits),):
        raise InputError(
            f"{count} codes of {bits} bits take {packed_bytes(count, bits)} bytes of type uint8;"
            f" got {packed.dtype} of shape {tuple(packed.shape)}"
        )
    if bits == 8:
        return packed.clone()
    per_group, group_bytes, word = _group(bits)
    shifts = (bits * torch.arange(per_group, device=packed.device)).to(word)
    codes = torch.empty(count, dtype=torch.uint8, device=packed.device)
    for first in range(0, count, CHUNK):
        part = packed[first * bits // 8 : packed_bytes(first + CHUNK, bits)]
        part = torch.nn.functional.pad(part, (0, -part.numel() % group_bytes))
        words = _words(part.view(-1, group_bytes), word)
        some = (words.unsqueeze(1) >> shifts) & (2**bits - 1)
        into = codes[first : first + CHUNK]
        into.copy_(some.view(-1)[: into.numel()])
    return codes


def packed_layout(layout: TensorLayout) -> TensorLayout:
    """Return how a tensor is stored on disk: codes as bytes, the rest as it is."""
    if layout.bits is None:
        return layout
    return TensorLayout((packed_bytes(layout.count, layout.bits),), torch.uint8, None)


def packed_tensors(quantized: QuantizedTensor, quantizer: PackableQuantizer) -> dict[str, Tensor]:
    """Return a quantized weight's tensors as they are stored on disk, by name."""
    layouts = quantizer.layout(quantized.shape, quantized.configuration)
    return {
        name: tensor if layouts[name].bits is None else pack(tensor, layouts[name].bits or 8)
        for name, tensor in quantized.tensors.items()
    }


def unpack_tensors(
    packed: Mapping[str, Tensor],
    shape: tuple[int, int],
    configuration: LayerConfiguration,
    quantizer: PackableQuantizer,
) -> QuantizedTensor:
    """Return the quantized weight that :func:`packed_tensors` was given.

    Args:
        packed: Tensors by name.
        shape: Shape of the weight, (output features, input features).
        configuration: Its layer configuration.
        quantizer: The quantizer that made it.

    Raises:
        InputError: If a tensor is missing or has the wrong size or type.
    """
    layouts = quantizer.layout(shape, configuration)
    tensors = {}
    for name, layout in layouts.items():
        stored = packed_layout(layout)
        tensor = packed.get(name)
        if tensor is None or tensor.shape != stored.shape or tensor.dtype != stored.dtype:
            found = "none" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            raise InputError(
                f"packed tensor {name!r} must be {stored.dtype} of shape {stored.shape};"
                f" found {found}"
            )
        if layout.bits is not None:
            tensor = unpack(tensor, layout.bits, layout.count).view(layout.shape)
        tensors[name] = tensor
    return QuantizedTensor(tensors, shape, configuration)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise InputError(f"bits must be 1 to 8, not {bits}")


def _group(bits: int) -> tuple[int, int, torch.dtype]:
    """Return the least number of codes that fills whole bytes, those bytes, and a wide type."""
    per_group = 8 // math.gcd(bits, 8)
    group_bytes = bits * per_group // 8
    word = {1: torch.uint8, 2: torch.int32, 3: torch.int32}.get(group_bytes, torch.int64)
    return per_group, group_bytes, word


def _words(groups: Tensor, word: torch.dtype) -> Tensor:
    """Return the little-endian integer that each row of bytes is."""
    if groups.shape[1] == 1:
        return groups[:, 0]
    words = groups[:, 0].to(word)
    for position in range(1, groups.shape[1]):
        words |= groups[:, position].to(word) << (8 * position)
    return words
