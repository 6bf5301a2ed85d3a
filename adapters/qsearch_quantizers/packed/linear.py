"""A linear layer that keeps its weight packed and dequantizes it by block at each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qsearch.errors import InputError
from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import PackableQuantizer, SupportsRows
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.packed.bit_packing import packed_layout, unpacked
from qsearch_quantizers.packed.stored_types import decode_factor, factor_plan
from qsearch_quantizers.packed.tensor_files import planned

BLOCK_WEIGHTS = 1 << 19
"""Weights dequantized at a time on the CPU: few enough to stay in its cache until they are used."""


@dataclass(frozen=True)
class PackedWeight:
    """Stands for a packed layer's weight where PEFT looks for one."""

    codes: Tensor
    # transformers draws no values for what bears this mark.
    _is_hf_initialized: ClassVar[bool] = True

    @property
    def device(self) -> torch.device:
        """Where the layer is, and an adapter on it belongs."""
        return self.codes.device

    @property
    def dtype(self) -> torch.dtype:
        """That of codes: an integer type, which tells PEFT to leave an adapter's type alone."""
        return torch.uint8

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


class PackedLinear(nn.Linear):
    """y = x·W̃ᵀ + (x·Aᵀ)·Bᵀ + b, with W̃ held as packed codes and scales in buffers.

    On the CPU, W̃ is dequantized some rows at a time where the quantizer can; else, and on a GPU,
    the whole layer at a time. Codes that the quantizer does not pack itself are unpacked first, a
    byte each. The backward pass dequantizes again instead of keeping W̃.

    It is a ``torch.nn.Linear`` so that PEFT puts LoRA on it; its ``weight`` is a stand-in that
    nothing can be merged into.

    The adapter is A (rank × input features), B (output features × rank); a rank of 0 is none. Bias
    and adapter have the given type, codes and scales their own. An adapter of 8 bits is in buffers
    too, and is dequantized at each call.
    """

    adapter_A: nn.Parameter | None  # noqa: N815
    adapter_B: nn.Parameter | None  # noqa: N815

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        configuration: LayerConfiguration,
        quantizer: PackableQuantizer,
        rank: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        adapter_bits: int | None = None,
    ) -> None:
        nn.Module.__init__(self)  # That of nn.Linear makes a float weight.
        self.in_features = in_features
        self.out_features = out_features
        self.configuration = configuration
        self.quantizer = quantizer
        self.rank = rank
        self.adapter_bits = adapter_bits
        self._rows_of = quantizer if isinstance(quantizer, SupportsRows) else None
        self._layouts = dict(quantizer.layout((out_features, in_features), configuration))
        self.tensor_names = tuple(self._layouts)
        for name, layout in self._layouts.items():
            stored = packed_layout(layout)
            self.register_buffer(name, torch.empty(stored.shape, dtype=stored.dtype, device=device))
        floats: dict[str, Tensor | None] = {"bias": None, "adapter_A": None, "adapter_B": None}
        float_type = dtype or torch.get_default_dtype()
        if bias:
            floats["bias"] = planned((out_features,), float_type)
        adapter = factor_plan(rank, (out_features, in_features), float_type, adapter_bits)
        if adapter_bits is None:
            floats |= adapter
        else:
            for name, tensor in adapter.items():
                self.register_buffer(name, _empty(tensor, device))
        for name, plan in floats.items():
            value = None if plan is None else nn.Parameter(_empty(plan, device))
            self.register_parameter(name, value)

    @property
    def weight(self) -> PackedWeight:  # type: ignore[override]
        """What PEFT asks for the weight's device; no float weight."""
        return PackedWeight(self.get_buffer(self.tensor_names[0]))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedLinear:
        # A change of dtype is for bias and adapter; scales in another type are other weights.
        before = dict(self.named_buffers(recurse=False))
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
        """Return the float32 weight (output features × input features), without the adapter."""
        return self.quantizer.dequantize(self._quantized())

    def _quantized(self) -> QuantizedTensor:
        # The buffers have these layouts, so that nothing is checked for every token.
        tensors = {
            name: unpacked(getattr(self, name), layout) for name, layout in self._layouts.items()
        }
        shape = (self.out_features, self.in_features)
        return QuantizedTensor(tensors, shape, self.configuration)

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """Return A and B, codes in a type; None without an adapter."""
        if self.adapter_A is not None and self.adapter_B is not None:
            return self.adapter_A, self.adapter_B
        if not self.rank:
            return None
        A, B = (
            decode_factor(
                self.get_buffer(f"{name}_codes"), self.get_buffer(f"{name}_scales"), dtype
            )
            for name in ("adapter_A", "adapter_B")
        )
        return A, B.T

    def _rows(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Yield parts of the weight (rows × input features) in a type, with their rows."""
        quantized = self._quantized()
        step = max(1, BLOCK_WEIGHTS // self.in_features)
        on_cpu = self.weight.device.type == "cpu"
        if self._rows_of is None or not on_cpu or step >= self.out_features:
            yield slice(None), self.quantizer.dequantize(quantized).to(dtype)
            return
        for first in range(0, self.out_features, step):
            last = min(first + step, self.out_features)
            part = self._rows_of.dequantize_rows(quantized, first, last)
            yield slice(first, last), part.to(dtype)

    # Compiled by inductor, lookups take three to ten times as long; the layers around are compiled.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def product(self, inputs: Tensor) -> Tensor:
        """Return x·W̃ᵀ (tokens × output features) for x (tokens × input features)."""
        outputs = inputs.new_empty(inputs.shape[0], self.out_features)
        for rows, weight in self._rows(inputs.dtype):
            outputs[:, rows] = nn.functional.linear(inputs, weight)
        return outputs

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def transposed_product(self, outputs: Tensor) -> Tensor:
        """Return g·W̃ (tokens × input features) for g (tokens × output features)."""
        inputs = outputs.new_zeros(outputs.shape[0], self.in_features, dtype=torch.float32)
        for rows, weight in self._rows(outputs.dtype):
            inputs += outputs[:, rows] @ weight
        return inputs.to(outputs.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (… × output features), in the type of the input."""
        flat = input.reshape(-1, self.in_features)
        outputs: Tensor = _Product.apply(flat, self) if flat.requires_grad else self.product(flat)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            outputs = outputs + self.bias
        factors = self._factors(flat.dtype)
        if factors is not None:
            linear = nn.functional.linear
            outputs = outputs + linear(linear(flat, factors[0]), factors[1])
        return outputs.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return features, rank and layer configuration."""
        sizes = f"{self.in_features}, {self.out_features}"
        return f"{sizes}, rank={self.rank}, {self.configuration!r}"


def _empty(plan: Tensor, device: torch.device | str | None) -> Tensor:
    return torch.empty(plan.shape, dtype=plan.dtype, device=device)


class _Product(torch.autograd.Function):
    """A packed layer's product; it keeps the layer for the backward pass, not its weight."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        outputs: Tensor = layer.product(inputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        inputs: Tensor = ctx.layer.transposed_product(gradients[0])
        return inputs, None
