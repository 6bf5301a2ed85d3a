"""How a quantizer's tensors are stored: the contract between quantizers and packing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from qsearch.configuration import LayerConfiguration
from qsearch.plugins import QuantizedTensor, Quantizer


@dataclass(frozen=True)
class TensorLayout:
    """One tensor of a quantized weight, in memory and on disk.

    Args:
        shape: Shape in memory.
        dtype: Element type in memory.
        bits: Bits per element on disk (1 to 8) for uint8 codes, which are packed; None for
            tensors stored as they are.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    bits: int | None

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@runtime_checkable
class PackableQuantizer(Quantizer, Protocol):
    """A quantizer whose tensors' shapes follow from weight shape and layer configuration."""

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored, by name."""
        ...


@runtime_checkable
class DequantizesRows(Protocol):
    """What a packable quantizer may have besides: then a layer runs without its whole weight."""

    def dequantize_rows(self, quantized: QuantizedTensor, first: int, last: int) -> Tensor:
        """Return rows ``first`` to ``last`` of the float32 weight (rows × input features)."""
        ...
