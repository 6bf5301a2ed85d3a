"""How a quantizer's tensors are stored: the contract between quantizers and packing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.space.configuration import Choices, LayerConfiguration

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class TensorLayout:
    """One tensor of a quantized weight: in memory, and how it is packed on disk.

    uint8 codes are packed to ``bits`` (1 to 8) per element; a tensor without is stored as it is.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    bits: int | None

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes that it takes on disk."""
        if self.bits is None:
            return self.count * self.dtype.itemsize
        return -(-self.count * self.bits // 8)


class Decoder(Protocol):
    """What a packed model needs of a quantizer: how tensors are stored, and their weights."""

    name: str

    def choices(self) -> Choices:
        """Return the knobs it has, and their ordered values."""
        ...

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored, by name."""
        ...

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features)."""
        ...


@runtime_checkable
class PackableQuantizer(Quantizer, Protocol):
    """A quantizer whose tensors' shapes follow from weight shape and layer configuration."""

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored, by name."""
        ...


@runtime_checkable
class SupportsRows(Protocol):
    """Optional for packable quantizers. With it, a layer runs without its whole weight."""

    def dequantize_rows(self, quantized: QuantizedTensor, first: int, last: int) -> Tensor:
        """Return rows ``first`` to ``last`` of the float32 weight (rows × input features)."""
        ...


Elements = Callable[["Tensor"], "Tensor"]
"""Returns the elements of a stored tensor at positions (int64, of any shape) in its flat order.

Of packed codes, those alone are unpacked.
"""


@runtime_checkable
class SupportsLookup(Protocol):
    """Optional for packable quantizers. With it, an embedding's rows are looked up alone.

    Without, each look-up dequantizes the whole table: by block with :class:`SupportsRows`.
    """

    def look_up(
        self,
        elements: Mapping[str, Elements],
        shape: tuple[int, int],
        configuration: LayerConfiguration,
        rows: Tensor,
    ) -> Tensor:
        """Return some rows of the float32 weight (rows × input features), as it is dequantized.

        ``elements`` are those of the tensors that :meth:`PackableQuantizer.layout` names, for a
        weight of this shape; rows are any of its rows (int64).
        """
        ...


@dataclass(frozen=True)
class IntegerWeight:
    """A weight on an even grid by groups of a row: scale · (code - zero point).

    Codes are uint8 (output features × input features), scales float16 (output features × groups),
    zero points uint8 (the same); without, all are 2^(bits - 1). A row's last group may be shorter.
    """

    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None
    bits: int
    group_size: int


@dataclass(frozen=True)
class LevelWeight:
    """A weight as levels of codes by groups of a row: (level - zero point) · scale, in float32.

    Codes are uint8 (output features × input features), levels float32 (2^bits) or None where a
    code is its own level. Scales, and zero points unless all are 0, are one a group (output
    features × groups), of any float type. Groups divide a row.
    """

    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None
    levels: Tensor | None
    bits: int
    group_size: int


@runtime_checkable
class SupportsLevels(Protocol):
    """Optional for packable quantizers. With it, compiled code decodes weights as it multiplies."""

    def as_levels(self, quantized: QuantizedTensor) -> LevelWeight | None:
        """Return a quantized weight as levels of codes, exactly; None if it is none."""
        ...


@runtime_checkable
class SupportsIntegers(Protocol):
    """Optional for quantizers. With it, engines that compute with integers read its weights."""

    def as_integers(self, quantized: QuantizedTensor) -> IntegerWeight:
        """Return a quantized weight as integers on a grid, exactly."""
        ...


@runtime_checkable
class SupportsGGMLTypes(Protocol):
    """Optional for quantizers. With it, GGUF files hold its weights as they are."""

    def ggml_type(self, shape: tuple[int, int], configuration: LayerConfiguration) -> str | None:
        """Return the name of ggml's type that a weight of this shape has, such as ``Q4_K``.

        None if there is none that holds it exactly.
        """
        ...

    def ggml_blocks(self, quantized: QuantizedTensor) -> Tensor:
        """Return a weight of such a type as bytes (output features × bytes of a row), uint8."""
        ...


@dataclass(frozen=True)
class Float8Weight:
    """A weight of 8-bit floating-point numbers (e4m3) with one scale a row: scale · code.

    Codes are float8_e4m3fn (output features × input features), scales float32 (output features
    × 1).
    """

    codes: Tensor
    scales: Tensor


@runtime_checkable
class SupportsFloat8(SupportsIntegers, Protocol):
    """Optional for quantizers with integers, some of whose weights are floating-point instead.

    :meth:`as_integers` of such a weight is an InputError.
    """

    def as_float8(self, quantized: QuantizedTensor) -> Float8Weight | None:
        """Return a quantized weight in 8-bit floating point, exactly; None if it is integers."""
        ...
