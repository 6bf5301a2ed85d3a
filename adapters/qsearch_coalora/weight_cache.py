"""Quantized weights in a bounded cache, and their switching inside one model in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from qsearch.configuration import Configuration, LayerConfiguration
from qsearch.layers import LayerSpec
from qsearch.plugins import QuantizedTensor, Quantizer

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


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


class BoundedCache(Generic[_Key, _Value]):
    """Values by key; the least recently used leave when their bytes pass the bound.

    Args:
        bound: Bytes that values may take together. A value above the bound is not kept.
        size: Returns a value's bytes.
    """

    def __init__(self, bound: int, size: Callable[[_Value], int]) -> None:
        self.bound = bound
        self._size = size
        self._values: OrderedDict[_Key, _Value] = OrderedDict()
        self._nbytes = self._hits = self._misses = 0

    @property
    def counts(self) -> CacheCounts:
        """Hits, misses and bytes."""
        return CacheCounts(self._hits, self._misses, self._nbytes)

    def get(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        """Return the value of a key, made on a miss."""
        if key in self._values:
            self._hits += 1
            self._values.move_to_end(key)
            return self._values[key]
        self._misses += 1
        value = make()
        size = self._size(value)
        if size <= self.bound:
            self._values[key] = value
            self._nbytes += size
            while self._nbytes > self.bound:
                _, oldest = self._values.popitem(last=False)
                self._nbytes -= self._size(oldest)
        return value

    def clear(self) -> None:
        """Forget all values; hits and misses stay counted."""
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
        bound: Bytes that cached quantized weights may take.
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        modules: Sequence[nn.Linear],
        quantizer: Quantizer,
        bound: int,
    ) -> None:
        self._names = tuple(layer.name for layer in layers)
        self._modules = tuple(modules)
        self._quantizer = quantizer
        self.originals: tuple[Tensor, ...] = tuple(module.weight.data for module in modules)
        self._added: Callable[[int, LayerConfiguration], Tensor] | None = None
        self._active: list[LayerConfiguration | None] = [None] * len(self._names)
        self.cache: BoundedCache[tuple[int, LayerConfiguration], QuantizedTensor] = BoundedCache(
            bound, lambda quantized: quantized.nbytes
        )

    @torch.no_grad()
    def quantized(self, position: int, configuration: LayerConfiguration) -> QuantizedTensor:
        """Return a layer's quantized weight, from the cache if it is there.

        Args:
            position: The layer's place in the list of layers.
            configuration: Its layer configuration.
        """
        return self.cache.get(
            (position, configuration),
            lambda: self._quantizer.quantize(
                self._to_quantize(position, configuration), configuration
            ),
        )

    def _to_quantize(self, position: int, configuration: LayerConfiguration) -> Tensor:
        original = self.originals[position]
        return original if self._added is None else original + self._added(position, configuration)

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
            quantized = self.quantized(position, wanted)
            # Replacing the storage saves a copy of every weight; no graph may be alive here.
            self._modules[position].weight.data = self._quantizer.dequantize(quantized).to(
                self.originals[position]
            )
            self._active[position] = wanted
            changed.append(position)
        return tuple(changed)

    def restore(self) -> None:
        """Put the original float weights back into the model."""
        for position, module in enumerate(self._modules):
            module.weight.data = self.originals[position]
            self._active[position] = None
