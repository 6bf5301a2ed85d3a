"""The quantized weights of one model, switched between configurations in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.plugins.quantizer_capabilities import needs_diagonal, quantize_weight
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch_coalora.weights.cache import BoundedCache
from qsearch_coalora.weights.layer_inputs import mean_squares

FULL_PRECISION = Configuration({})
"""The configuration that quantizes nothing."""


class QuantizedWeights:
    """The quantizable weights of one model, switched between configurations in place.

    Each layer keeps one float copy of its original weight; the model's own parameter, which must
    not require gradients, holds the dequantized weight of the active configuration. Memory grows
    with the cache's bound only, never with the number of configurations. An output head that is
    tied to an embedding has the same parameter, so both are switched at once.
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        modules: Sequence[nn.Linear | nn.Embedding],
        quantizer: Quantizer,
        cache: BoundedCache,
    ) -> None:
        self._layers = tuple(layers)
        self._names = tuple(layer.name for layer in layers)
        self._modules = tuple(modules)
        self._quantizer = quantizer
        self.originals: tuple[Tensor, ...] = tuple(module.weight.data for module in modules)
        self.moments: tuple[Tensor | None, ...] = (None,) * len(self._names)
        self._added: Callable[[int, LayerConfiguration], Tensor | None] | None = None
        self._keeps_dequantized = False
        self._active: list[LayerConfiguration | None] = [None] * len(self._names)
        self.cache = cache

    @torch.no_grad()
    def activate(self, configuration: Configuration) -> tuple[int, ...]:
        """Put the dequantized weights of a configuration into the model.

        Returns:
            Positions of the layers that changed; of ``FULL_PRECISION``, all.
        """
        if configuration == FULL_PRECISION:
            self.restore()
            return tuple(range(len(self._names)))
        changed = []
        for position, name in enumerate(self._names):
            target = configuration[name]
            if self._active[position] == target:
                continue
            # Unknown meanwhile: an evaluation that takes too long may be stopped at any step.
            self._active[position] = None
            # Replacing the storage saves a copy of every weight; no graph may be alive here. The
            # old one is freed before a new one is made: an embedding is most of some models.
            self._modules[position].weight.data = self.originals[position]
            self._modules[position].weight.data = self.dequantized(position, target)
            self._active[position] = target
            changed.append(position)
        return tuple(changed)

    def restore(self) -> None:
        """Put the original float weights back into the model."""
        for position, module in enumerate(self._modules):
            self._active[position] = None
            module.weight.data = self.originals[position]

    def expect(self, configurations: Sequence[Configuration], factor_rank: int = 0) -> None:
        """Choose what the cache keeps while these configurations are switched again and again.

        Dequantized weights if those of all of them fit, together with low-rank factors of
        ``factor_rank`` next to each, since a switch then costs nothing; else quantized ones, which
        take a quarter of the memory or less.
        """
        distinct = {
            (position, configuration[name])
            for configuration in configurations
            if configuration != FULL_PRECISION
            for position, name in enumerate(self._names)
        }
        weights = [self.originals[position] for position, _ in distinct]
        needed = sum(
            weight.nbytes + factor_rank * sum(weight.shape) * weight.itemsize for weight in weights
        )
        keeps_dequantized = needed <= self.cache.bound
        if keeps_dequantized != self._keeps_dequantized:
            self.cache.clear()
        self._keeps_dequantized = keeps_dequantized

    @torch.no_grad()
    def quantized(self, position: int, configuration: LayerConfiguration) -> QuantizedTensor:
        """Return the quantized weight of the layer at a position, from the cache if it is there."""

        def make() -> QuantizedTensor:
            weight = self.originals[position]
            added = None if self._added is None else self._added(position, configuration)
            if added is not None:
                weight = weight + added
            moment, layer = self.moments[position], self._layers[position]
            return quantize_weight(self._quantizer, weight, configuration, moment, layer)

        if self._keeps_dequantized:
            return make()
        return self.cache.get(("quantized", position, configuration), make)

    @torch.no_grad()
    def dequantized(self, position: int, configuration: LayerConfiguration) -> Tensor:
        """Return a layer's dequantized weight in the original's type; see :meth:`quantized`."""

        def make() -> Tensor:
            quantized = self.quantized(position, configuration)
            return self._quantizer.dequantize(quantized).to(self.originals[position])

        if not self._keeps_dequantized:
            return make()
        return self.cache.get(("dequantized", position, configuration), make)

    def approximated(
        self, position: int, weight: Tensor, configuration: LayerConfiguration
    ) -> Tensor:
        """Return any weight quantized and dequantized as the layer's would be, not cached."""
        moment, layer = self.moments[position], self._layers[position]
        quantized = quantize_weight(self._quantizer, weight, configuration, moment, layer)
        return self._quantizer.dequantize(quantized).to(weight)

    def calibrate(self, moments: Mapping[str, Tensor]) -> None:
        """Quantize weights by the moments E[x·xᵀ] of their inputs, by layer, from now on.

        They are diagonals where the quantizer needs no more.

        A layer without is an embedding. Its rows are looked up, so each counts by itself, as with
        inputs of moment 1. The original weights are active.
        """
        ones: dict[int, Tensor] = {}
        for layer, weight in zip(self._layers, self.originals, strict=True):
            if layer.name not in moments:
                own = torch.ones(layer.shape[1], device=weight.device)
                ones[layer.shape[1]] = own if needs_diagonal(self._quantizer) else own.diag()
        self.moments = tuple(
            moments.get(layer.name, ones.get(layer.shape[1])) for layer in self._layers
        )
        self.cache.clear()
        self.restore()

    def input_sizes(self) -> list[float | None]:
        """Return each layer's root mean square input, None where it was not measured."""
        return [
            None if moment is None else float(mean_squares(moment).mean().sqrt())
            for moment in self.moments
        ]

    def add(self, added: Callable[[int, LayerConfiguration], Tensor | None] | None) -> None:
        """Quantize the sum of each original weight and something else from now on, or no longer.

        That is a matrix by the position of a layer and its layer configuration, or None for no
        change. The original weights are active.
        """
        self._added = added
        self.cache.clear()
        self.restore()
