"""Ladders: the choices of a group worth considering, from few bits to many."""

from __future__ import annotations

import numpy as np

from qsearch.pareto import non_dominated
from qsearch.space import Floats, Integers


def efficient_choices(scores: Floats, bits: Floats) -> Integers:
    """Return the choices that no other betters in both score and bits, by rising bits.

    Args:
        scores: Predicted rise of the loss (choices).
        bits: Storage bits per weight (choices).

    Returns:
        Choice indices (levels); of equal choices the first.
    """
    points = np.column_stack([scores, bits])
    kept = np.flatnonzero(non_dominated(points))
    _, first = np.unique(points[kept], axis=0, return_index=True)
    chosen = kept[first]
    return chosen[np.argsort(bits[chosen], kind="stable")].astype(np.int64)


def thinned(ladder: Integers, bits: Floats, step: float) -> Integers:
    """Return the levels of a ladder (levels) that are at least ``step`` bits apart.

    Args:
        ladder: Choice indices by rising bits (levels).
        bits: Storage bits per weight (choices).
        step: Least distance; the first level is always kept.
    """
    kept = [int(ladder[0])]
    for choice in ladder[1:].tolist():
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
