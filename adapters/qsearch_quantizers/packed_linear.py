"""A linear layer that keeps its weight packed and dequantizes it at each call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qsearch.configuration import LayerConfiguration
from qsearch.layout import PackableQuantizer
from qsearch_quantizers.packing import packed_layout, unpack_tensors


class PackedLinear(nn.Module):
    """y = x·W̃ᵀ + b, with W̃ held as packed codes and scales in buffers.

    Args:
        in_features: Input features.
        out_features: Output features.
        bias: Whether there is a bias.
        configuration: Layer configuration of the weight.
        quantizer: The quantizer that made the codes.
        dtype: Type of the bias.
        device: Device of the buffers; ``meta`` before a checkpoint is loaded.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        configuration: LayerConfiguration,
        quantizer: PackableQuantizer,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.configuration = configuration
        self.quantizer = quantizer
        self.tensor_names: tuple[str, ...] = ()
        for name, layout in quantizer.layout((out_features, in_features), configuration).items():
            stored = packed_layout(layout)
            self.register_buffer(name, torch.empty(stored.shape, dtype=stored.dtype, device=device))
            self.tensor_names += (name,)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype, device=device))
        else:
            self.register_parameter("bias", None)

    def dequantized(self) -> Tensor:
        """Return the float32 weight (output features × input features)."""
        packed = {name: self.get_buffer(name) for name in self.tensor_names}
        shape = (self.out_features, self.in_features)
        quantized = unpack_tensors(packed, shape, self.configuration, self.quantizer)
        return self.quantizer.dequantize(quantized)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (… × output features), in the type of the inputs."""
        return nn.functional.linear(inputs, self.dequantized().to(inputs.dtype), self.bias)

    def extra_repr(self) -> str:
        """Return features and layer configuration."""
        return f"{self.in_features}, {self.out_features}, {self.configuration!r}"
