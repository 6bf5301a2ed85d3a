"""bitsandbytes' 4-bit layers instead of linear layers that are quantized alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec

NF4 = LayerConfiguration(
    {
        "bits": 4,
        "scale_bits": 8,
        "scale_dtype": "float32",
        "block_size": 64,
        "scale_block_size": 256,
    }
)
"""The layer configuration that bitsandbytes' NF4 with double quantization stands for (QLoRA)."""

_BLOCK = 64
"""Matrices whose rows are no whole blocks stay with the study's quantizer: on the CPU,
bitsandbytes 0.50 encodes one vector but decodes row by row (errors of .2 to .3, not .09)."""


def in_four_bit(layers: Sequence[LayerSpec], configuration: Configuration) -> list[str]:
    """Return the names of the layers that bitsandbytes quantizes: NF4, in rows of whole blocks."""
    return [
        layer.name
        for layer in layers
        if layer.shape[1] % _BLOCK == 0 and configuration.get(layer.name) == NF4
    ]


class FourBitLayers:
    """Puts bitsandbytes' layers into LoRA layers whose layer configuration is NF4."""

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        lora_layers: Sequence[Any],
        originals: Sequence[Tensor],
    ) -> None:
        self._layers = tuple(layers)
        self._lora_layers = tuple(lora_layers)
        self._originals = tuple(originals)
        self._plain: tuple[nn.Linear, ...] = tuple(layer.base_layer for layer in lora_layers)
        self._made: dict[int, nn.Module] = {}

    def place(self, configuration: Configuration) -> None:
        """Put the 4-bit layers in where the configuration is NF4, and plain layers elsewhere."""
        four_bit = set(in_four_bit(self._layers, configuration))
        for position, layer in enumerate(self._layers):
            is_four_bit = layer.name in four_bit
            if is_four_bit and position not in self._made:
                self._made[position] = self._make(position)
            base = self._made[position] if is_four_bit else self._plain[position]
            self._lora_layers[position].base_layer = base

    def _make(self, position: int) -> nn.Module:
        from bitsandbytes.nn.modules import Linear4bit, Params4bit

        plain, weight = self._plain[position], self._originals[position]
        outputs, inputs = weight.shape
        layer: Any = Linear4bit(  # type: ignore[no-untyped-call]
            inputs,
            outputs,
            bias=plain.bias is not None,
            compute_dtype=torch.float32,
            compress_statistics=True,
            quant_type="nf4",
        )
        layer.weight = Params4bit(
            weight.cpu().clone(), requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        layer.bias = plain.bias
        # Its fast format is for inference alone, and never turned back for training.
        layer.support_avx512bf16_for_cpu = False
        placed: nn.Module = layer.to(weight.device)
        return placed
