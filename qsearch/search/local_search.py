"""Local searches that climb a score along finite differences, several at once."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.space.configuration_space import ConfigurationSpace

_NEW_POINTS = 4
"""Best new points that each step of a search contributes."""

_MAX_DOUBLINGS = 11
"""A step moves at most 2^11 groups together."""


class Score(Protocol):
    """Values of configurations; higher is better, and −∞ means that there is none."""

    @property
    def space(self) -> ConfigurationSpace:
        """The space of the configurations."""
        ...

    def __call__(self, index: Integers) -> Floats:
        """Return values (n) of choice indices (n × groups)."""
        ...

    def moves(self, index: Integers, groups: Integers, choices: Integers) -> Floats:
        """Return values (changes) of the configurations that :func:`moved` makes."""
        ...


def local_search(
    score: Score,
    starts: Integers,
    steps: int,
    max_moves: int,
    exclude: Integers,
    windows: Floats | None = None,
) -> tuple[Integers, Floats]:
    """Climb a score from several starting points (starts × groups) at once.

    A step goes to the best neighbour, or to the best combination of neighbours that move up to
    ``max_moves`` groups. A search may pass excluded configurations (k × groups), but does not
    return them; it stays in its window of average bits (starts × 2).

    Returns:
        Distinct configurations that were best among those looked at (n × groups), best first, and
        their scores (n); without starting points.
    """
    space = score.space
    taken = {row.tobytes() for row in (*starts, *exclude)}

    def windowed(search: int, points: Integers, values: Floats) -> Floats:
        if windows is None:
            return values
        low, high = windows[search]
        average = space.average_bits(points)
        return np.where((average >= low) & (average <= high), values, -np.inf)

    current, value = starts.copy(), score(starts)
    seen, seen_values = [starts[:0]], [value[:0]]
    active = list(range(len(starts)))
    for _ in range(steps if len(starts) else 0):
        neighbours, combined = [], []
        for search in active:
            groups, choices = space.neighbours(current[search])
            points = moved(current[search], groups, choices)
            values = windowed(search, points, score.moves(current[search], groups, choices))
            neighbours.append((points, values))
            gains = values > value[search]
            order = np.argsort(-values[gains], kind="stable")
            better = groups[gains][order], choices[gains][order]
            combined.append(_combined(current[search], *better, max_moves))
        ends = np.cumsum([len(points) for points in combined])
        together = np.split(score(np.concatenate(combined)), ends[:-1])
        climbing = []
        for position, search in enumerate(active):
            points = np.concatenate([neighbours[position][0], combined[position]])
            rest = windowed(search, combined[position], together[position])
            values = np.concatenate([neighbours[position][1], rest])
            new, new_values = best_new(points, values, taken, _NEW_POINTS)
            seen.append(new)
            seen_values.append(new_values)
            best = int(values.argmax()) if len(values) else None
            if best is not None and values[best] > value[search]:
                current[search], value[search] = points[best], values[best]
                climbing.append(search)
        active = climbing
        if not active:
            break
    everything = np.concatenate(seen)
    return best_new(everything, np.concatenate(seen_values), taken, len(everything))


def moved(index: Integers, groups: Integers, choices: Integers) -> Integers:
    """Return a configuration (groups) with one group changed, for each change (changes × groups).

    ``groups`` has the group that each change moves (changes), ``choices`` its new choice index.
    """
    result = np.repeat(index[None], len(groups), axis=0)
    result[np.arange(len(groups)), groups] = choices
    return result


def _combined(index: Integers, groups: Integers, choices: Integers, max_moves: int) -> Integers:
    """Return a configuration with the best moves of the first 2, 4, 8, … groups made together.

    Moves are those that improve the score, the best first.
    """
    _, first = np.unique(groups, return_index=True)
    best = np.sort(first)[:max_moves]
    sizes = sorted({min(2**power, len(best)) for power in range(1, _MAX_DOUBLINGS + 1)} - {0, 1})
    combined = np.repeat(index[None], len(sizes), axis=0)
    for row, size in enumerate(sizes):
        combined[row, groups[best[:size]]] = choices[best[:size]]
    return combined


def best_new(
    points: Integers, values: Floats, taken: set[bytes], count: int
) -> tuple[Integers, Floats]:
    """Return the best distinct points (n × groups) with a score, best first, and their scores (n).

    ``taken`` has the bytes of rows to leave out.
    """
    positions: dict[bytes, int] = {}
    for position in np.argsort(-values, kind="stable").tolist():
        if len(positions) == count or values[position] == -np.inf:
            break
        key = points[position].tobytes()
        if key not in taken:
            positions.setdefault(key, position)
    rows = list(positions.values())
    return points[rows], values[rows]
