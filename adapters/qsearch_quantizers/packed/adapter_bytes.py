"""Bytes of an adapter's factors, from shapes alone: without PyTorch, since `check` asks."""

from __future__ import annotations

ADAPTER_BLOCK = 64
"""Codes of an adapter that share a scale."""

_VALUE_BYTES = 2
"""Of a value, and of a scale: both have 16 bits."""


def scales_of(rank: int, features: int) -> int:
    """Return the number of scales of a factor in codes."""
    return -(-rank * features // ADAPTER_BLOCK)


def adapter_bytes(rank: int, shape: tuple[int, int], bits: int | None) -> int:
    """Return the bytes of a layer's factors (output × input features), in codes or in 16 bits."""
    if bits is None:
        return rank * sum(shape) * _VALUE_BYTES
    return sum(rank * one + scales_of(rank, one) * _VALUE_BYTES for one in shape)
