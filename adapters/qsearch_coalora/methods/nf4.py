"""bitsandbytes' 4-bit layers instead of linear layers that are quantized alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
bitsandbytes 0.50 encodes one vector but decodes row by row (errors of 0.2 to 0.3, not 0.09)."""


def in_four_bit(layers: Sequence[LayerSpec], configuration: Configuration) -> list[str]:
    """Return the names of the layers that bitsandbytes quantizes: NF4, in rows of whole blocks.

    It has no such embedding with a tied head, so tables are the study's quantizer's.
    """
    return [
        layer.name
        for layer in layers
        if not layer.is_table
        and layer.shape[1] % _BLOCK == 0
        and configuration.get(layer.name) == NF4
    ]


def four_bit_layers(
    layers: Sequence[LayerSpec], lora_layers: Sequence[Any], originals: Sequence[Tensor]
) -> Callable[[Configuration], None]:
    """Return what puts bitsandbytes' layers into LoRA layers where a configuration is NF4.

    Elsewhere it puts the plain ones back. Originals are the original weights, by layer.
    """
    plain: tuple[nn.Linear, ...] = tuple(layer.base_layer for layer in lora_layers)
    made: dict[int, nn.Module] = {}

    def place(configuration: Configuration) -> None:
        four_bit = set(in_four_bit(layers, configuration))
        for position, layer in enumerate(layers):
            is_four_bit = layer.name in four_bit
            if is_four_bit and position not in made:
                made[position] = _four_bit_layer(plain[position], originals[position])
            base = made[position] if is_four_bit else plain[position]
            lora_layers[position].base_layer = base

    return place


def _four_bit_layer(plain: nn.Linear, weight: Tensor) -> nn.Module:
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

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
