"""A weight that a module keeps as packed codes and scales, and dequantizes by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import Decoder, SupportsRows
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.packed.bit_packing import packed_layout, unpacked

BLOCK_WEIGHTS = 1 << 19
"""Weights dequantized at a time on the CPU: few enough to stay in its cache until they are used."""


@dataclass(frozen=True)
class PackedWeight:
    """Stands for a packed layer's weight where PEFT looks for one."""

    codes: Tensor
    dtype: torch.dtype = torch.uint8
    """That of codes: an integer type, which tells PEFT to leave an adapter's type alone."""
    # transformers draws no values for what bears this mark.
    _is_hf_initialized: ClassVar[bool] = True

    @property
    def device(self) -> torch.device:
        """Where the layer is, and an adapter on it belongs."""
        return self.codes.device

    @property
    def data(self) -> Tensor:
        """Nothing.

        Raises:
            InputError: Always; whoever asks is about to merge an adapter.
        """
        raise InputError(
            "an adapter cannot be merged into packed weights: quantizing the sum again would lose"
            " what the adapter corrects; leave it unmerged, or export the format 'merged'"
        )


Factors = tuple[Tensor, Tensor]
"""A (rank × columns) and B (rows × rank) of an adapter."""


class CompiledProduct(Protocol):
    """Computes products with some inputs; see :mod:`~qsearch_quantizers.packed.compiled`."""

    def takes(self, inputs: Tensor, factors: Factors | None = None) -> bool:
        """Return whether it computes with these inputs (tokens × columns), without a gradient."""
        ...

    def product(self, inputs: Tensor, factors: Factors | None = None) -> Tensor:
        """Return x·W̃ᵀ + (x·Aᵀ)·Bᵀ (tokens × rows)."""
        ...


class PackedModule(nn.Module):
    """A module whose weight W̃ (rows × columns) is in buffers, as a quantizer's packed tensors."""

    _blocks_on_gpu = False
    """Whether the weight is dequantized by block on a GPU too, not only on the CPU."""
    compiled: CompiledProduct | None = None
    """What computes few tokens instead; see :mod:`~qsearch_quantizers.packed.compiled`."""
    stored_names: tuple[str, ...]
    """Buffers whose type never changes: those of the weight, and of an adapter in codes."""

    def hold(
        self,
        shape: tuple[int, int],
        configuration: LayerConfiguration,
        quantizer: Decoder,
        device: torch.device | str | None,
    ) -> None:
        """Make the buffers; they have no values yet."""
        self.shape = shape
        self.configuration = configuration
        self.quantizer = quantizer
        self._rows_of = quantizer if isinstance(quantizer, SupportsRows) else None
        self._layouts = dict(quantizer.layout(shape, configuration))
        self.tensor_names = tuple(self._layouts)
        self.stored_names = self.tensor_names
        for name, layout in self._layouts.items():
            stored = packed_layout(layout)
            self.register_buffer(name, torch.empty(stored.shape, dtype=stored.dtype, device=device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A change of dtype is for all but these; scales in another type are other weights.
        before = {name: self.get_buffer(name) for name in self.stored_names}
        for name, tensor in before.items():
            setattr(self, name, tensor.reshape(-1).view(torch.uint8))
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        except BaseException:
            for name, tensor in before.items():
                setattr(self, name, tensor)
            raise
        for name, tensor in before.items():
            setattr(self, name, self.get_buffer(name).view(tensor.dtype).view(tensor.shape))
        return self

    def dequantized(self) -> Tensor:
        """Return the float32 weight (rows × columns), without an adapter."""
        return self.quantizer.dequantize(self.quantized())

    def quantized(self) -> QuantizedTensor:
        """Return the weight's tensors, of which those that are packed are unpacked."""
        # The buffers have these layouts, so that nothing is checked for every token.
        tensors = {
            name: unpacked(getattr(self, name), layout) for name, layout in self._layouts.items()
        }
        return QuantizedTensor(tensors, self.shape, self.configuration)

    def rows(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Yield parts of the weight (rows × columns) in a type, with their rows."""
        quantized = self.quantized()
        rows, columns = self.shape
        step = max(1, BLOCK_WEIGHTS // columns)
        by_block = self._blocks_on_gpu or self.get_buffer(self.tensor_names[0]).device.type == "cpu"
        if self._rows_of is None or not by_block or step >= rows:
            yield slice(None), self.quantizer.dequantize(quantized).to(dtype)
            return
        for first in range(0, rows, step):
            last = min(first + step, rows)
            part = self._rows_of.dequantize_rows(quantized, first, last)
            yield slice(first, last), part.to(dtype)

    # Compiled by inductor, lookups take three to ten times as long; the layers around are compiled.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def product(self, inputs: Tensor) -> Tensor:
        """Return x·W̃ᵀ (tokens × rows) for x (tokens × columns)."""
        outputs = inputs.new_empty(inputs.shape[0], self.shape[0])
        for rows, weight in self.rows(inputs.dtype):
            outputs[:, rows] = nn.functional.linear(inputs, weight)
        return outputs

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def transposed_product(self, outputs: Tensor) -> Tensor:
        """Return g·W̃ (tokens × columns) for g (tokens × rows)."""
        inputs = outputs.new_zeros(outputs.shape[0], self.shape[1], dtype=torch.float32)
        for rows, weight in self.rows(outputs.dtype):
            inputs += outputs[:, rows] @ weight
        return inputs.to(outputs.dtype)

    def products(self, inputs: Tensor) -> Tensor:
        """Return x·W̃ᵀ (tokens × rows), with the gradient of x (tokens × columns)."""
        if self.compiled is not None and self.compiled.takes(inputs):
            return self.compiled.product(inputs)
        if inputs.requires_grad:
            return cast(Tensor, _Product.apply(inputs, self))  # type: ignore[no-untyped-call]
        return cast(Tensor, self.product(inputs))


class _Product(torch.autograd.Function):
    """A packed weight's product; it keeps the module for the backward pass, not its weight."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, module: PackedModule) -> Tensor:
        ctx.module = module
        outputs: Tensor = module.product(inputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        inputs: Tensor = ctx.module.transposed_product(gradients[0])
        return inputs, None
