"""A linear layer that keeps its weight packed and dequantizes it by block at each call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.packed.weight import PackedModule, PackedWeight


class PackedLinear(PackedModule, nn.Linear):
    """y = x·W̃ᵀ + (x·Aᵀ)·Bᵀ + b, with W̃ held as packed codes and scales in buffers.

    On the CPU, W̃ is dequantized some rows at a time where the quantizer can; else, and on a GPU,
    the whole layer at a time. Codes that the quantizer does not pack itself are unpacked first, a
    byte each. The backward pass dequantizes again instead of keeping W̃.

    It is a ``torch.nn.Linear`` so that PEFT puts LoRA on it; its ``weight`` is a stand-in that
    nothing can be merged into.

    The adapter is A (rank × input features), B (output features × rank); a rank of 0 is none. Bias
    and adapter have the given type, codes and scales their own.
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
    ) -> None:
        nn.Module.__init__(self)  # That of nn.Linear makes a float weight.
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.hold((out_features, in_features), configuration, quantizer, device)
        sizes: dict[str, tuple[int, ...]] = {
            "bias": (out_features,) if bias else (),
            "adapter_A": (rank, in_features) if rank else (),
            "adapter_B": (out_features, rank) if rank else (),
        }
        for name, size in sizes.items():
            value = nn.Parameter(torch.empty(size, dtype=dtype, device=device)) if size else None
            self.register_parameter(name, value)

    @property
    def weight(self) -> PackedWeight:  # type: ignore[override]
        """What PEFT asks for the weight's device; no float weight."""
        return PackedWeight(self.get_buffer(self.tensor_names[0]))

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (… × output features), in the type of the input."""
        flat = input.reshape(-1, self.in_features)
        outputs = self.products(flat)
        if self.bias is not None:
            outputs = outputs + self.bias
        if self.adapter_A is not None and self.adapter_B is not None:
            linear = nn.functional.linear
            outputs = outputs + linear(linear(flat, self.adapter_A), self.adapter_B)
        return outputs.view(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return features, rank and layer configuration."""
        sizes = f"{self.in_features}, {self.out_features}"
        return f"{sizes}, rank={self.rank}, {self.configuration!r}"
