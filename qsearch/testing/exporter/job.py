"""An export job of a small model that transformers does not know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.plugins.exporters import Storage
from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.space.configuration import Configuration
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import ModelSpec
from qsearch.testing.samples import draw_configurations, normal_weight, quantize

LAYERS = (
    LayerSpec("blocks.0.query", "query", 0, (96, 128)),
    LayerSpec("blocks.0.output", "output", 0, (128, 96)),
)
"""Their paths in the model have a prefix."""

RANK = 4
MODEL = ModelSpec(name="sample")
STORAGE = Storage(torch.bfloat16)


@dataclass(frozen=True)
class SampleJob:
    """A configuration of a model of two layers and a head, with an adapter or without."""

    module: nn.Module
    quantizer: Quantizer
    configuration: Configuration
    has_adapter: bool
    layers: tuple[LayerSpec, ...] = LAYERS
    paths: tuple[str, ...] = tuple(f"model.{layer.name}" for layer in LAYERS)
    model: ModelSpec = MODEL
    storage: Storage = STORAGE
    method: str = "LoRA"
    tokenizer: Any = None
    labels: tuple[str, ...] = ("left", "right")

    def state(self) -> dict[str, Tensor]:
        """Return the module's own tensors."""
        return dict(self.module.state_dict())

    def quantized(self, position: int) -> QuantizedTensor:
        """Return a layer's quantized weight."""
        weight = self.state()[f"{self.paths[position]}.weight"]
        return quantize(self.quantizer, weight, self.configuration[self.layers[position].name])

    def factors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield factors that are the same at each call."""
        for position, layer in enumerate(self.layers if self.has_adapter else ()):
            rows, columns = layer.shape
            yield normal_weight(RANK, columns, seed=position), normal_weight(rows, RANK, seed=9)


def sample_job(quantizer: Quantizer, has_adapter: bool = True) -> SampleJob:
    """Return a job whose layers have two layer configurations, where the quantizer has two."""
    size = min(quantizer.choices().size, 2)
    configuration = draw_configurations(LAYERS, quantizer.choices(), size)[-1]
    return SampleJob(_module(), quantizer, configuration, has_adapter)


def _module() -> nn.Module:
    def linear(rows: int, columns: int) -> nn.Linear:
        layer = nn.Linear(columns, rows)
        layer.weight = nn.Parameter(normal_weight(rows, columns, seed=rows))
        layer.bias = nn.Parameter(torch.linspace(-0.1, 0.1, rows))
        return layer

    layers = {layer.name.split(".")[-1]: linear(*layer.shape) for layer in LAYERS}
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict(layers)])})
    return nn.ModuleDict({"model": model, "head": linear(2, 128)}).requires_grad_(False)
