"""What training needs of a machine, told from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from qsearch.layers import LayerSpec
from qsearch.plugins import Requirements
from qsearch_coalora.adapted_model import FACTOR_CACHE_SHARE
from qsearch_coalora.options import CoALoRAOptions

_FLOAT_BYTES = 4
_TRAINED_COPIES = 4
"""Value, gradient and AdamW's two moments."""

_ACTIVATION_SHARE = 0.5
"""Activations and temporary tensors, as a share of the weights; a rule of thumb."""


def estimate_requirements(
    model: nn.Module,
    layers: Sequence[LayerSpec],
    options: CoALoRAOptions,
    notes: Sequence[str],
) -> Requirements:
    """Estimate the peak memory of training.

    It holds the model in float32, one dequantized copy of its quantizable weights, the bounded
    cache of quantized weights, and the adapter with its optimizer.

    Args:
        model: The model, on the meta device.
        layers: Its quantizable layers.
        options: The trainer's options.
        notes: Sentences for the user.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    quantizable = sum(layer.parameters for layer in layers)
    adapter = sum(options.rank * sum(layer.shape) for layer in layers)
    weights = (parameters + quantizable) * _FLOAT_BYTES
    memory = (
        weights * (1 + _ACTIVATION_SHARE)
        + adapter * _FLOAT_BYTES * _TRAINED_COPIES
        + options.cache_mebibytes * 2**20 * (1 + FACTOR_CACHE_SHARE)
    )
    return Requirements(parameters, int(memory), notes=tuple(notes))
