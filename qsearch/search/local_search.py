"""Walks that climb any score along finite differences, in batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.space.space import Space

Score = Callable[[Integers], Floats]
"""Acquisition values (n) of choice indices (n × groups); higher is better."""

MoveScore = Callable[[Integers, Integers, Integers], Floats]
"""Acquisition values (changes) of a configuration (groups) with one group changed, given the group
(changes) and its new choice index (changes)."""

_KEPT = 4
"""Best new points that each step of a walk contributes."""


def local_search(
    score: Score,
    space: Space,
    starts: Integers,
    steps: int,
    moves: int,
    exclude: Integers | None = None,
    windows: Floats | None = None,
    move_score: MoveScore | None = None,
) -> tuple[Integers, Floats]:
    """Climb a score from several starting points at once.

    Args:
        score: What to climb.
        space: The space.
        starts: Choice indices of the starting points (starts × groups).
        steps: Most steps of a walk.
        moves: Most groups that one step moves.
        exclude: Configurations that may be walked over but not returned (k × groups).
        windows: Interval of average bits that each walk stays in (starts × 2); everywhere by
            default.
        move_score: What to climb for changes of one group, where that is faster to compute.

    Returns:
        Distinct configurations that the walks visited or looked at and found best
        (n × groups), best first, and their scores (n). Neither starting points nor excluded
        configurations are among them.
    """
    taken = {row.tobytes() for row in starts}
    if exclude is not None:
        taken |= {row.tobytes() for row in exclude}

    def windowed(values: Floats, points: Integers, walker: int) -> Floats:
        if windows is None:
            return values
        low, high = windows[walker]
        average = space.average_bits(points)
        return np.where((average >= low) & (average <= high), values, -np.inf)

    def combined_scores(blocks: list[Integers], walkers: Integers) -> list[Floats]:
        values = score(np.concatenate(blocks))
        parts = np.split(values, np.cumsum([len(block) for block in blocks])[:-1])
        return [windowed(*each) for each in zip(parts, blocks, walkers.tolist(), strict=True)]

    def step_scores(points: Integers, walker: int, groups: Integers, choices: Integers) -> Floats:
        if move_score is None:
            return windowed(score(points), points, walker)
        return windowed(move_score(current[walker], groups, choices), points, walker)

    current, value = starts.copy(), score(starts)
    active = np.ones(len(starts), dtype=bool)
    found: list[Integers] = [starts[:0]]
    scores: list[Floats] = [value[:0]]
    for _ in range(steps):
        walkers = np.flatnonzero(active)
        if not len(walkers):
            break
        options = [space.neighbours(current[walker]) for walker in walkers]
        stepped = [
            moved(current[walker], groups, choices)
            for walker, (groups, choices) in zip(walkers, options, strict=True)
        ]
        stepped_scores = [
            step_scores(points, walker, *option)
            for points, walker, option in zip(stepped, walkers.tolist(), options, strict=True)
        ]
        combined = [
            _combine(current[w], groups, choices, values, float(value[w]), moves)
            for w, (groups, choices), values in zip(walkers, options, stepped_scores, strict=True)
        ]
        values_of_combined = combined_scores(combined, walkers)
        for position, walker in enumerate(walkers):
            points = np.concatenate([stepped[position], combined[position]])
            values = np.concatenate([stepped_scores[position], values_of_combined[position]])
            new, new_values = best_new(points, values, taken, _KEPT)
            found.append(new)
            scores.append(new_values)
            best = int(values.argmax()) if len(values) else None
            if best is not None and values[best] > value[walker]:
                current[walker], value[walker] = points[best], values[best]
            else:
                active[walker] = False
    everything = np.concatenate(found)
    return best_new(everything, np.concatenate(scores), taken, len(everything))


def moved(index: Integers, groups: Integers, choices: Integers) -> Integers:
    """Return a configuration with one group changed, for each of several changes.

    Args:
        index: Choice indices (groups).
        groups: The group that each change moves (changes).
        choices: Its new choice index (changes).

    Returns:
        Choice indices (changes × groups).
    """
    result = np.repeat(index[None], len(groups), axis=0)
    result[np.arange(len(groups)), groups] = choices
    return result


def _combine(
    index: Integers, groups: Integers, choices: Integers, values: Floats, value: float, most: int
) -> Integers:
    """Make the best step of the 2, 4, 8, … groups that gain most, together."""
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(groups[order], return_index=True)
    best = order[np.sort(first)]
    best = best[values[best] > value][:most]
    sizes = sorted({min(2**power, len(best)) for power in range(1, 12)} - {0, 1})
    combined = np.repeat(index[None], len(sizes), axis=0)
    for row, size in enumerate(sizes):
        combined[row, groups[best[:size]]] = choices[best[:size]]
    return combined


def best_new(
    points: Integers, values: Floats, taken: set[bytes], most: int
) -> tuple[Integers, Floats]:
    """Return the best distinct points that have a score and are not taken, best first.

    Args:
        points: Choice indices (n × groups).
        values: Their scores (n); −∞ is no score.
        taken: Bytes of the rows to leave out.
        most: Most points to return.
    """
    keep: list[int] = []
    kept: set[bytes] = set()
    for position in np.argsort(-values, kind="stable").tolist():
        if len(keep) == most or values[position] == -np.inf:
            break
        key = points[position].tobytes()
        if key not in taken and key not in kept:
            kept.add(key)
            keep.append(position)
    return points[keep], values[keep]
