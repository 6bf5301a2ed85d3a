"""Average bits, as a trainer computes them without the engine's space."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.plugins.protocols import Quantizer
from qsearch.space.configuration import Configuration
from qsearch.space.layers import LayerSpec


def average_bits(
    quantizer: Quantizer, layers: Sequence[LayerSpec], configurations: Sequence[Configuration]
) -> list[float]:
    """Return storage bits per quantized weight of configurations."""
    storage = {
        chosen: quantizer.storage_bits(chosen)
        for chosen in {c for configuration in configurations for c in configuration.values()}
    }
    weights = sum(layer.parameters for layer in layers)
    return [
        sum(layer.parameters * storage[configuration[layer.name]] for layer in layers) / weights
        for configuration in configurations
    ]
