"""A linear layer that keeps its weight packed and dequantizes it by block at each call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qsearch.plugins.tensor_layout import Decoder
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.packed.stored_types import decode_factor, factor_plan
from qsearch_quantizers.packed.tensor_files import planned
from qsearch_quantizers.packed.weight import PackedModule, PackedWeight


class PackedLinear(PackedModule, nn.Linear):
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
        quantizer: Decoder,
        rank: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        adapter_bits: int | None = None,
    ) -> None:
        nn.Module.__init__(self)  # That of nn.Linear makes a float weight.
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.adapter_bits = adapter_bits
        self.hold((out_features, in_features), configuration, quantizer, device)
        floats: dict[str, Tensor | None] = {"bias": None, "adapter_A": None, "adapter_B": None}
        float_type = dtype or torch.get_default_dtype()
        if bias:
            floats["bias"] = planned((out_features,), float_type)
        adapter = factor_plan(rank, (out_features, in_features), float_type, adapter_bits)
        if adapter_bits is None:
            floats |= adapter
        else:
            self.stored_names += tuple(adapter)
            for name, tensor in adapter.items():
                self.register_buffer(name, _empty(tensor, device))
        for name, plan in floats.items():
            value = None if plan is None else nn.Parameter(_empty(plan, device))
            self.register_parameter(name, value)

    @property
    def weight(self) -> PackedWeight:  # type: ignore[override]
        """What PEFT asks for the weight's device; no float weight."""
        return PackedWeight(self.get_buffer(self.tensor_names[0]))

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """Return A and B, codes in a type; None without an adapter."""
        # As attributes, parameters take microseconds, which count where a token takes tens of them.
        own_A, own_B = self._parameters["adapter_A"], self._parameters["adapter_B"]
        if own_A is not None and own_B is not None:
            return own_A, own_B
        if not self.rank:
            return None
        A, B = (
            decode_factor(
                self.get_buffer(f"{name}_codes"), self.get_buffer(f"{name}_scales"), dtype
            )
            for name in ("adapter_A", "adapter_B")
        )
        return A, B.T

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (… × output features), in the type of the input."""
        flat, bias = input.reshape(-1, self.in_features), self._parameters["bias"]
        factors, compiled = self._factors(flat.dtype), self.compiled
        if compiled is not None and not torch.is_grad_enabled() and compiled.takes(flat, factors):
            outputs, factors = compiled.product(flat, factors), None
        else:
            outputs = self.products(flat)
        if bias is not None:
            outputs = outputs + bias
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
