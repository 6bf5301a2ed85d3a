"""A cache whose values take a bounded number of bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast


class Sized(Protocol):
    """What a cache can hold."""

    @property
    def nbytes(self) -> int: ...


_Value = TypeVar("_Value", bound=Sized)


@dataclass(frozen=True)
class CacheCounts:
    """Look-ups that found a value, those that had to make it, and bytes held now."""

    hits: int
    misses: int
    nbytes: int


class BoundedCache:
    """Values by key; when their bytes pass the bound, randomly drawn ones leave.

    A round passes over its whole set again and again. Where a set is somewhat too large, a cache
    that drops what was used least recently would have dropped each value before it comes round.
    A value above the bound is not kept.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._values: dict[Hashable, Sized] = {}
        self._nbytes = self._hits = self._misses = 0
        self._draw = random.Random(0)  # noqa: S311  # Decides what is kept, never a result.

    @property
    def counts(self) -> CacheCounts:
        """Hits, misses and bytes."""
        return CacheCounts(self._hits, self._misses, self._nbytes)

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """Return the value of a key, made on a miss; a key always has the same type of value."""
        if key in self._values:
            self._hits += 1
            return cast(_Value, self._values[key])
        self._misses += 1
        value = make()
        if value.nbytes <= self.bound:
            while self._nbytes + value.nbytes > self.bound:
                dropped = self._values.pop(self._draw.choice(list(self._values)))
                self._nbytes -= dropped.nbytes
            self._values[key] = value
            self._nbytes += value.nbytes
        return value

    def clear(self) -> None:
        """Delete all values; hits and misses stay counted."""
        self._values.clear()
        self._nbytes = 0
