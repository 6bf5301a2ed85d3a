"""Finite-difference guided search for the configurations most worth evaluating.

The paper ascends the acquisition along finite differences (α(C+δe_i) − α(C−δe_i)) / 2δ. Knobs
are discrete, so here a difference is the change from one in-range step of one knob of one group.
All of a point's are scored at once; the walk then makes the best steps of several groups together.

A batch of candidates shares one pool of promising configurations. The proxy and the
surrogate's mean add over groups, so the best configuration of each under any budget is an
allocation of bits; to these come local searches from the front, from allocations and from random
points, each within its own window of average bits. A candidate is then the pool's best one given
those chosen before it, improved by a short local search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qsearch._arrays import Floats, Integers
from qsearch.search.acquisition import log_expected_hypervolume_improvement
from qsearch.search.allocation import relaxed_allocations
from qsearch.search.local_search import Score, best_new, local_search, moved
from qsearch.search.pareto import front, non_dominated, reference_point, segment_of
from qsearch.space.space import Space
from qsearch.surrogate.surrogate import Surrogate

_LAST_STEPS = 2
"""Most steps of the walk that improves a candidate of the pool."""


@dataclass(frozen=True)
class SearchSettings:
    """How far the search looks.

    Args:
        starts: Walks of the pool, each within a window of average bits of its own.
        steps: Most steps of a walk.
        moves: Most groups that one step moves.
        allocations: Budgets at which allocations are made.
        empty_segment_share: One candidate in so many goes to a segment without any evaluated
            configuration; 0 for none.
    """

    starts: int = 12
    steps: int = 4
    moves: int = 1024
    allocations: int = 40
    empty_segment_share: int = 4


@dataclass(frozen=True)
class Evaluated:
    """What a search starts from.

    Args:
        index: Choice indices of the evaluated configurations (n × groups).
        loss: Their losses (n).
        exclude: Further configurations never to propose, such as failed ones (k × groups).
    """

    index: Integers
    loss: Floats
    exclude: Integers


@dataclass(frozen=True, eq=False)
class Improvement:
    """Log expected hypervolume improvement as a function of choice indices.

    Args:
        surrogate: The surrogate, with pending configurations believed.
        space: The space.
        front: Non-dominated points (m × 2), rows (loss, average bits) by rising bits.
        reference: Reference point (loss, average bits).
        bits: Interval of average bits; outside of it the score is −∞.
    """

    surrogate: Surrogate
    space: Space
    front: Tensor
    reference: tuple[float, float]
    bits: tuple[float, float]

    def __call__(self, index: Integers) -> Floats:
        """Return scores (n) of choice indices (n × groups)."""
        return self._of(*self.surrogate.predict(index), self.space.average_bits(index))

    def moves(self, index: Integers, groups: Integers, choices: Integers) -> Floats:
        """Return scores (changes) of a configuration with one group changed.

        Args:
            index: Choice indices of the configuration (groups).
            groups: The group that each change moves (changes).
            choices: Its new choice index (changes).
        """
        average_bits = self.space.average_bits(moved(index, groups, choices))
        return self._of(*self.surrogate.predict_moves(index, groups, choices), average_bits)

    def _of(self, mean: Tensor, std: Tensor, average_bits: Floats) -> Floats:
        known = torch.from_numpy(average_bits)
        value = log_expected_hypervolume_improvement(mean, std, known, self.front, self.reference)
        inside = (known >= self.bits[0]) & (known <= self.bits[1])
        result: Floats = torch.where(inside, value, -torch.inf).numpy()
        return result


def acquisition(
    surrogate: Surrogate,
    space: Space,
    known: Integers,
    loss: Floats,
    bits: tuple[float, float],
) -> Improvement:
    """Return log expected hypervolume improvement over what is known.

    The front is that of posterior means at known configurations, not of the noisy losses, so a
    lucky draw does not hold it.

    Args:
        surrogate: The surrogate, with pending configurations believed.
        space: The space.
        known: Evaluated and pending configurations (n × groups).
        loss: Losses of the evaluated ones, for the reference point.
        bits: Interval of average bits; outside of it the score is −∞.
    """
    means = surrogate.predict(known)[0].numpy()
    points = front(np.column_stack([means, space.average_bits(known)]))
    return Improvement(
        surrogate, space, torch.from_numpy(points), reference_point(loss, bits), bits
    )


def candidate_pool(
    surrogate: Surrogate,
    space: Space,
    evaluated: Evaluated,
    bits: tuple[float, float],
    generator: np.random.Generator,
    settings: SearchSettings = SearchSettings(),  # frozen
) -> Integers:
    """Return promising configurations, for a batch of candidates to be chosen from.

    Args:
        surrogate: Fitted to the evaluated configurations.
        space: The space.
        evaluated: What was evaluated.
        bits: Interval of average bits to stay in.
        generator: Source of the random starting points.
        settings: How far to look.

    Returns:
        Distinct choice indices (n × groups), neither evaluated nor excluded; the best first.
    """
    known = evaluated.index
    score = acquisition(surrogate, space, known, evaluated.loss, bits)
    points = np.column_stack([surrogate.predict(known)[0].numpy(), space.average_bits(known)])
    best_known = known[non_dominated(points)]
    budgets = np.linspace(*bits, settings.allocations).tolist()
    tables = [surrogate.features.proxy.numpy(), surrogate.mean_table]
    allocations = np.concatenate([relaxed_allocations(space, table, budgets) for table in tables])
    random = space.sample(max(settings.starts // 3, 1), bits, generator)
    sources = np.concatenate([best_known, allocations, random])
    starts, windows = _windowed_starts(score, space, sources, bits, settings.starts)
    taken = np.concatenate([known, evaluated.exclude])
    found, _ = local_search(
        score,
        space,
        starts,
        settings.steps,
        settings.moves,
        taken,
        windows=windows,
        move_score=score.moves,
    )
    pool = np.concatenate([found, allocations, random])
    chosen, _ = best_new(pool, score(pool), {row.tobytes() for row in taken}, len(pool))
    return chosen


def _windowed_starts(
    score: Score, space: Space, sources: Integers, bits: tuple[float, float], count: int
) -> tuple[Integers, Floats]:
    """Return the best-scored source in each of equal windows of average bits, and the windows."""
    edges = np.linspace(*bits, count + 1)
    values, window = score(sources), segment_of(space.average_bits(sources), edges)
    usable = np.isfinite(values)
    starts = []
    for number in np.unique(window[usable]):
        members = np.flatnonzero((window == number) & usable)
        starts.append((members[values[members].argmax()], number))
    positions = [position for position, _ in starts]
    numbers = np.array([number for _, number in starts], dtype=np.int64)
    return sources[positions], np.column_stack([edges[numbers], edges[numbers + 1]])


def next_candidate(
    surrogate: Surrogate,
    space: Space,
    evaluated: Evaluated,
    pool: Integers,
    pending: Integers,
    bits: tuple[float, float],
    edges: Floats,
    settings: SearchSettings = SearchSettings(),  # frozen
) -> Integers | None:
    """Return the configuration with the greatest expected hypervolume improvement.

    Args:
        surrogate: Fitted to the evaluated configurations.
        space: The space.
        evaluated: What was evaluated.
        pool: From :func:`candidate_pool`.
        pending: Configurations chosen but not evaluated (m × groups); the surrogate believes
            that they score their means, so its uncertainty near them shrinks.
        bits: Interval of average bits to stay in.
        edges: Edges of the segments, in average bits (segments + 1).
        settings: How far to look.

    Returns:
        Choice indices (groups) of a new configuration, or None when none is found.
    """
    known = np.concatenate([evaluated.index, pending])
    believed = surrogate.fantasise(pending)
    score = acquisition(believed, space, known, evaluated.loss, bits)
    taken = np.concatenate([known, evaluated.exclude])
    keys = {row.tobytes() for row in taken}
    if (
        settings.empty_segment_share
        and len(pending) % settings.empty_segment_share == settings.empty_segment_share - 1
    ):
        pool_segment = segment_of(space.average_bits(pool), edges)
        thin = pool[~np.isin(pool_segment, segment_of(space.average_bits(known), edges))]
        chosen, _ = best_new(thin, score(thin), keys, 1)
        if len(chosen):
            first: Integers = chosen[0]
            return first
    starts, values = best_new(pool, score(pool), keys, 2)
    found, found_values = local_search(
        score,
        space,
        starts,
        min(settings.steps, _LAST_STEPS),
        settings.moves,
        taken,
        move_score=score.moves,
    )
    everything = np.concatenate([starts, found])
    chosen, _ = best_new(everything, np.concatenate([values, found_values]), keys, 1)
    if not len(chosen):
        chosen = _any_new(score, space, taken, keys)
    best: Integers | None = chosen[0] if len(chosen) else None
    return best


def _any_new(score: Score, space: Space, around: Integers, taken: set[bytes]) -> Integers:
    """Return the best new neighbour of the first point that has one.

    In a small space that is nearly used up, walks see only what is known already.
    """
    for point in around:
        points = moved(point, *space.neighbours(point))
        found, _ = best_new(points, score(points), taken, 1)
        if len(found):
            return found
    return around[:0]
