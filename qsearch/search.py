"""Finite-difference guided search for the configurations most worth evaluating.

The paper ascends the acquisition along finite differences (α(C+δe_i) − α(C−δe_i)) / 2δ. Knobs
are discrete, so here a difference is the change from one in-range step of one knob of one group.
All of them are scored in one batch; the walk then makes the best steps of several groups at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qsearch.acquisition import log_expected_hypervolume_improvement
from qsearch.pareto import front, non_dominated
from qsearch.space import Floats, Integers, Space
from qsearch.surrogate import Surrogate

Score = Callable[[Integers], Floats]
"""Acquisition values (n) of choice indices (n × groups); higher is better."""


@dataclass(frozen=True)
class WalkSettings:
    """How far the search walks.

    Args:
        starts: Starting points of each candidate's walks; half from the front, half random.
        steps: Most steps of a walk.
        moves: Most groups that one step moves.
    """

    starts: int = 6
    steps: int = 8
    moves: int = 1024


_KEPT = 4
"""Best new points that each step of a walk contributes."""


def guided_walk(
    score: Score,
    space: Space,
    starts: Integers,
    settings: WalkSettings,
    exclude: Integers | None = None,
) -> tuple[Integers, Floats]:
    """Climb an acquisition from several starting points at once.

    Args:
        score: The acquisition.
        space: The space.
        starts: Choice indices of the starting points (starts × groups).
        settings: Step limits.
        exclude: Configurations that may be walked over but not returned (k × groups).

    Returns:
        Distinct configurations that the walks visited or looked at and found best
        (n × groups), best first, and their scores (n). Neither starting points nor excluded
        configurations are among them.
    """
    taken = {row.tobytes() for row in starts}
    if exclude is not None:
        taken |= {row.tobytes() for row in exclude}
    current, value = starts.copy(), score(starts)
    active = np.ones(len(starts), dtype=bool)
    found: list[Integers] = [starts[:0]]
    scores: list[Floats] = [value[:0]]
    for _ in range(settings.steps):
        walkers = np.flatnonzero(active)
        if not len(walkers):
            break
        moves = [space.neighbours(current[walker]) for walker in walkers]
        stepped = [
            _apply(current[w], groups, choices)
            for w, (groups, choices) in zip(walkers, moves, strict=True)
        ]
        split = np.cumsum([len(block) for block in stepped])[:-1]
        stepped_scores = np.split(score(np.concatenate(stepped)), split)
        combined = [
            _combine(current[w], groups, choices, values, float(value[w]), settings.moves)
            for w, (groups, choices), values in zip(walkers, moves, stepped_scores, strict=True)
        ]
        split = np.cumsum([len(block) for block in combined])[:-1]
        combined_scores = np.split(score(np.concatenate(combined)), split)
        for position, walker in enumerate(walkers):
            points = np.concatenate([stepped[position], combined[position]])
            values = np.concatenate([stepped_scores[position], combined_scores[position]])
            new, new_values = _best_new(points, values, taken, _KEPT)
            found.append(new)
            scores.append(new_values)
            best = int(values.argmax()) if len(values) else None
            if best is not None and values[best] > value[walker]:
                current[walker], value[walker] = points[best], values[best]
            else:
                active[walker] = False
    everything = np.concatenate(found)
    return _best_new(everything, np.concatenate(scores), taken, len(everything))


def _apply(index: Integers, groups: Integers, choices: Integers) -> Integers:
    moved = np.repeat(index[None], len(groups), axis=0)
    moved[np.arange(len(groups)), groups] = choices
    return moved


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


def _best_new(
    points: Integers, values: Floats, taken: set[bytes], most: int
) -> tuple[Integers, Floats]:
    """Return the best distinct points that have a score and are not taken, best first."""
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


def reference_point(loss: Floats, bits: tuple[float, float]) -> tuple[float, float]:
    """Return the point that hypervolume is measured from: a tenth beyond the worst loss.

    Args:
        loss: Losses of evaluated configurations (n).
        bits: Interval of average bits that is searched.
    """
    worst, best = float(loss.max()), float(loss.min())
    return worst + 0.1 * max(worst - best, 1e-6), bits[1] + 1e-9


def next_candidate(
    surrogate: Surrogate,
    space: Space,
    evaluated: Integers,
    loss: Floats,
    pending: Integers,
    exclude: Integers,
    bits: tuple[float, float],
    generator: np.random.Generator,
    settings: WalkSettings = WalkSettings(),  # frozen
) -> Integers | None:
    """Return the configuration with the greatest expected hypervolume improvement.

    The front is that of posterior means at evaluated and pending configurations, not of the
    noisy losses, so a lucky draw does not hold it.

    Args:
        surrogate: Fitted to the evaluated configurations.
        space: The space.
        evaluated: Choice indices of evaluated configurations (n × groups).
        loss: Their losses (n), for the reference point.
        pending: Configurations chosen but not evaluated (m × groups).
        exclude: Configurations never to return, such as failed ones (k × groups); the
            evaluated and the pending are excluded too.
        bits: Interval of average bits to stay in.
        generator: Source of the random starting points.
        settings: Walk limits.

    Returns:
        Choice indices (groups) of a new configuration, or None when none is found.
    """
    believed = surrogate.fantasise(pending)
    known = np.concatenate([evaluated, pending])
    known_bits = space.average_bits(known)
    means = believed.predict(known)[0].numpy()
    points = np.column_stack([means, known_bits])
    reference = reference_point(loss, bits)
    current_front = torch.from_numpy(front(points))

    def score(index: Integers) -> Floats:
        mean, deviation = believed.predict(index)
        average_bits = torch.from_numpy(space.average_bits(index))
        value: Tensor = log_expected_hypervolume_improvement(
            mean, deviation, average_bits, current_front, reference
        )
        inside = (average_bits >= bits[0]) & (average_bits <= bits[1])
        result: Floats = torch.where(inside, value, -torch.inf).numpy()
        return result

    best_known = np.flatnonzero(non_dominated(points))
    chosen = generator.permutation(best_known)[: settings.starts // 2]
    random = space.sample(settings.starts - len(chosen), bits, generator)
    starts, taken = np.concatenate([known[chosen], random]), np.concatenate([known, exclude])
    found, _ = guided_walk(score, space, starts, settings, taken)
    if not len(found):
        found = _any_new(score, space, np.concatenate([starts, taken]), taken)
    return found[0] if len(found) else None


def _any_new(score: Score, space: Space, around: Integers, exclude: Integers) -> Integers:
    """Return the best new neighbour of the first point that has one, or the point itself.

    In a small space that is nearly used up, walks see only what is known already.
    """
    taken = {row.tobytes() for row in exclude}
    for point in around:
        points = np.concatenate([point[None], _apply(point, *space.neighbours(point))])
        new = points[[row.tobytes() not in taken for row in points]]
        found, _ = _best_new(new, score(new), set(), 1)
        if len(found):
            return found
    return around[:0]
