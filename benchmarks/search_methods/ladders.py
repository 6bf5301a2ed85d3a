"""Ladders: the choices of a group worth considering, from few bits to many."""

from __future__ import annotations

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.search.allocation import efficient_choices


def ladder_of(scores: Floats, bits: Floats) -> Integers:
    """Return the choices that no other dominates in score and bits, by rising bits (levels).

    Args:
        scores: Predicted rise of the loss (choices).
        bits: Storage bits per weight (choices).
    """
    chosen = efficient_choices(scores, bits)
    return chosen[np.argsort(bits[chosen], kind="stable")]


def thinned(levels: Integers, bits: Floats, step: float) -> Integers:
    """Return the levels of a ladder (levels) that are at least ``step`` bits apart.

    Args:
        levels: Choice indices by rising bits (levels).
        bits: Storage bits per weight (choices).
        step: Least distance; the first level is always kept.
    """
    kept = [int(levels[0])]
    for choice in levels[1:].tolist():
        if bits[choice] >= bits[kept[-1]] + step:
            kept.append(choice)
    return np.array(kept, dtype=np.int64)


def spread_order(count: int) -> list[int]:
    """Return 0 … count − 1 in an order whose every prefix is spread evenly: ends, then middles."""
    order: list[int] = []
    seen: set[int] = set()
    parts = 1
    while len(order) < count:
        for number in range(parts + 1):
            position = round(number * (count - 1) / parts)
            if position not in seen:
                seen.add(position)
                order.append(position)
        parts *= 2
    return order
