"""Quantized weights in a bounded cache, and their switching inside one model in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from qsearch.plugins.capabilities import quantize_weight
from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec

_Value = TypeVar("_Value", bound="Sized")


@dataclass(frozen=True)
class CacheCounts:
    """What a cache did so far.

    Args:
        hits: Look-ups that found a value.
        misses: Look-ups that had to make it.
        nbytes: Bytes of the values held now.
    """

    hits: int
    misses: int
    nbytes: int


class Sized(Protocol):
    """What a cache can hold."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        ...


class BoundedCache:
    """Values by key; when their bytes pass the bound, randomly drawn ones leave.

    A round passes over its whole set again and again. Where a set is somewhat too large, a cache
    that drops what was used least recently would have dropped each value before it comes round.

    Args:
        bound: Bytes that values may take together. A value above the bound is not kept.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._keys: list[Hashable] = []
        self._values: dict[Hashable, Sized] = {}
        self._nbytes = self._hits = self._misses = 0
        self._draw = random.Random(0)  # noqa: S311  # Decides what is kept, never a result.

    @property
    def counts(self) -> CacheCounts:
        """Hits, misses and bytes."""
        return CacheCounts(self._hits, self._misses, self._nbytes)

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """Return the value of a key, made on a miss.

        Args:
            key: Names the value; a key always goes with the same type of value.
            make: Makes it.
        """
        if key in self._values:
            self._hits += 1
            return cast(_Value, self._values[key])
        self._misses += 1
        value = make()
        if value.nbytes <= self.bound:
            while self._nbytes + value.nbytes > self.bound:
                self._drop_one()
            self._values[key] = value
            self._keys.append(key)
            self._nbytes += value.nbytes
        return value

    def _drop_one(self) -> None:
        position = self._draw.randrange(len(self._keys))
        self._keys[position], self._keys[-1] = self._keys[-1], self._keys[position]
        self._nbytes -= self._values.pop(self._keys.pop()).nbytes

    def clear(self) -> None:
        """Forget all values; hits and misses stay counted."""
        self._keys.clear()
        self._values.clear()
        self._nbytes = 0


FULL_PRECISION = Configuration({})
"""The configuration that quantizes nothing."""


class QuantizedWeights:
    """The quantizable weights of one model, switched between configurations in place.

    Each layer keeps one float copy of its original weight; the model's own parameter holds the
    dequantized weight of the active configuration. Memory grows with the cache's bound only,
    never with the number of configurations.

    Args:
        layers: The layers.
        modules: Their linear modules, in the same order; weights must not require gradients.
        quantizer: Quantizes and dequantizes.
        cache: Keeps quantized weights, or dequantized ones (:meth:`expect`).
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        modules: Sequence[nn.Linear],
        quantizer: Quantizer,
        cache: BoundedCache,
    ) -> None:
        self._names = tuple(layer.name for layer in layers)
        self._modules = tuple(modules)
        self._quantizer = quantizer
        self.originals: tuple[Tensor, ...] = tuple(module.weight.data for module in modules)
        self.moments: tuple[Tensor | None, ...] = (None,) * len(self._names)
        self._added: Callable[[int, LayerConfiguration], Tensor] | None = None
        self._keeps_dequantized = False
        self._active: list[LayerConfiguration | None] = [None] * len(self._names)
        self.cache = cache

    def expect(self, configurations: Sequence[Configuration], factor_rank: int = 0) -> None:
        """Choose what the cache keeps while configurations are switched again and again.

        Dequantized weights if those of all of them fit, since a switch then costs nothing; else
        quantized ones, which take a quarter of the memory or less.

        Args:
            configurations: What is switched among.
            factor_rank: Rank of the factors that the cache keeps beside each weight.
        """
        kept = {
            (position, configuration[name])
            for configuration in configurations
            if configuration != FULL_PRECISION
            for position, name in enumerate(self._names)
        }
        weights = [self.originals[position] for position, _ in kept]
        needed = sum(
            weight.nbytes + factor_rank * sum(weight.shape) * weight.itemsize for weight in weights
        )
        keeps_dequantized = needed <= self.cache.bound
        if keeps_dequantized != self._keeps_dequantized:
            self.cache.clear()
        self._keeps_dequantized = keeps_dequantized

    @torch.no_grad()
    def quantized(self, position: int, configuration: LayerConfiguration) -> QuantizedTensor:
        """Return a layer's quantized weight, from the cache if it is there.

        Args:
            position: The layer's place in the list of layers.
            configuration: Its layer configuration.
        """

        def make() -> QuantizedTensor:
            weight = self._to_quantize(position, configuration)
            return quantize_weight(self._quantizer, weight, configuration, self.moments[position])

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
        """Return any weight quantized and dequantized as a layer's would be, not cached.

        Args:
            position: The layer's place in the list of layers.
            weight: The weight (output features × input features).
            configuration: A layer configuration.
        """
        moment = self.moments[position]
        quantized = quantize_weight(self._quantizer, weight, configuration, moment)
        return self._quantizer.dequantize(quantized).to(weight)

    def _to_quantize(self, position: int, configuration: LayerConfiguration) -> Tensor:
        original = self.originals[position]
        return original if self._added is None else original + self._added(position, configuration)

    def calibrate(self, moments: Sequence[Tensor]) -> None:
        """Quantize each weight for its layer's inputs from now on.

        What was quantized before is forgotten, and the original weights are active.

        Args:
            moments: Each layer's E[x·xᵀ] (input features × input features).
        """
        self.moments = tuple(moments)
        self.cache.clear()
        self.restore()

    def input_sizes(self) -> list[float | None]:
        """Return each layer's root mean square input, None where it was not measured."""
        return [
            None if moment is None else float(moment.diagonal().mean().sqrt())
            for moment in self.moments
        ]

    def add(self, added: Callable[[int, LayerConfiguration], Tensor] | None) -> None:
        """Quantize the sum of each original weight and something else from now on.

        What was quantized before is forgotten, and the original weights are active.

        Args:
            added: Returns what is added to the weight at a position (output features × input
                features) under a layer configuration; None adds nothing.
        """
        self._added = added
        self.cache.clear()
        self.restore()

    @torch.no_grad()
    def activate(self, configuration: Configuration) -> tuple[int, ...]:
        """Put the dequantized weights of a configuration into the model.

        Layers whose layer configuration is already active are left as they are.
        ``FULL_PRECISION`` puts the original weights back.

        Returns:
            Positions of the layers that changed.

        Raises:
            KeyError: If the configuration lacks a layer.
        """
        if configuration == FULL_PRECISION:
            self.restore()
            return tuple(range(len(self._names)))
        changed = []
        for position, name in enumerate(self._names):
            wanted = configuration[name]
            if self._active[position] == wanted:
                continue
            # Unknown meanwhile: an evaluation that takes too long may be cut off at any step.
            self._active[position] = None
            # Replacing the storage saves a copy of every weight; no graph may be alive here.
            self._modules[position].weight.data = self.dequantized(position, wanted)
            self._active[position] = wanted
            changed.append(position)
        return tuple(changed)

    def restore(self) -> None:
        """Put the original float weights back into the model."""
        for position, module in enumerate(self._modules):
            self._active[position] = None
            module.weight.data = self.originals[position]
