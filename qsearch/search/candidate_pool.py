"""Search for the configurations most worth evaluating.

The paper ascends the acquisition along finite differences (α(C+δe_i) − α(C−δe_i)) / 2δ. Knobs
are discrete, so here a difference is the change from one in-range step of one knob of one group.

A batch of candidates shares one pool of promising configurations. The proxy and the surrogate's
mean add over groups, so the best configuration of each under any budget is an allocation of bits;
to these come local searches from the front, from allocations and from random points, each within
its own window of average bits. A candidate is then the pool's best one given those chosen before
it, improved by a short local search.
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
from qsearch.space.sampling import sample_configurations
from qsearch.space.space import Space
from qsearch.surrogate.surrogate import Surrogate

_LAST_STEPS = 2
"""Most steps of the local search that improves a candidate of the pool."""

_LAST_STARTS = 2
"""Configurations of the pool that it starts from."""


@dataclass(frozen=True)
class SearchSettings:
    """How far the search looks.

    The pool has ``starts`` local searches, each within a window of average bits of its own. Each
    takes at most ``steps`` steps, and a step moves at most ``moves`` groups. Allocations are made
    at ``allocations`` budgets. Every n-th candidate (``empty_segment_share``) goes to a segment
    without any evaluated configuration; 0 for none.
    """

    starts: int = 12
    steps: int = 4
    moves: int = 1024
    allocations: int = 40
    empty_segment_share: int = 4


@dataclass(frozen=True)
class Evaluated:
    """What a search starts from: evaluated configurations (n × groups) and their losses (n).

    ``exclude`` are further ones never to propose, such as failed ones (k × groups).
    """

    index: Integers
    loss: Floats
    exclude: Integers


@dataclass(frozen=True, eq=False)
class Improvement:
    """Log expected hypervolume improvement as a function of choice indices.

    The surrogate has pending configurations fantasised. Non-dominated points (m × 2) are rows
    (loss, average bits) by rising bits. Outside the interval of average bits, the score is −∞.
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
        """Return scores of a configuration with one group changed, as in :class:`Score`."""
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
    """Return log expected hypervolume improvement over known configurations.

    Known are evaluated and pending configurations (n × groups), of which the surrogate fantasises
    the latter; losses are of the former, for the reference point. The front is that of estimated
    losses and not of observed ones, so that sampling noise does not hold a configuration on it.
    """
    points = front(_estimated_points(surrogate, space, known))
    return Improvement(
        surrogate, space, torch.from_numpy(points), reference_point(loss, bits), bits
    )


def _estimated_points(surrogate: Surrogate, space: Space, index: Integers) -> Floats:
    """Return points (n × 2), rows (estimated loss, average bits)."""
    return np.column_stack([surrogate.predict(index)[0].numpy(), space.average_bits(index)])


def candidate_pool(
    surrogate: Surrogate,
    space: Space,
    evaluated: Evaluated,
    bits: tuple[float, float],
    generator: np.random.Generator,
    settings: SearchSettings = SearchSettings(),  # frozen
) -> Integers:
    """Return promising configurations within an interval of average bits (n × groups).

    They are distinct, neither evaluated nor excluded, and the best comes first. The surrogate is
    fitted to the evaluated configurations; the generator draws random starting points.
    """
    known = evaluated.index
    score = acquisition(surrogate, space, known, evaluated.loss, bits)
    best_known = known[non_dominated(_estimated_points(surrogate, space, known))]
    budgets = np.linspace(*bits, settings.allocations).tolist()
    by_group = [surrogate.features.proxy.numpy(), surrogate.mean_table]
    allocations = np.concatenate([relaxed_allocations(space, table, budgets) for table in by_group])
    random = sample_configurations(space, max(settings.starts // 3, 1), bits, generator)
    sources = np.concatenate([best_known, allocations, random])
    starts, windows = _windowed_starts(score, sources, bits, settings.starts)
    taken = np.concatenate([known, evaluated.exclude])
    climbed, _ = local_search(score, starts, settings.steps, settings.moves, taken, windows)
    pool = np.concatenate([climbed, allocations, random])
    return best_new(pool, score(pool), {row.tobytes() for row in taken}, len(pool))[0]


def _windowed_starts(
    score: Improvement, sources: Integers, bits: tuple[float, float], count: int
) -> tuple[Integers, Floats]:
    """Return the best-scored source in each of equal windows of average bits, and the windows."""
    edges = np.linspace(*bits, count + 1)
    values, window = score(sources), segment_of(score.space.average_bits(sources), edges)
    usable = np.isfinite(values)
    numbers = np.unique(window[usable])
    members = [np.flatnonzero((window == number) & usable) for number in numbers]
    best = [int(rows[values[rows].argmax()]) for rows in members]
    return sources[best], np.column_stack([edges[numbers], edges[numbers + 1]])


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
    """Return the new configuration (groups) of greatest improvement; None if there is none.

    The surrogate is fitted to the evaluated configurations, and the pool is that of
    :func:`candidate_pool`. Pending ones are proposed but not evaluated (m × groups): their losses
    are fantasised as their means, so the uncertainty near them shrinks. ``edges`` are those of the
    segments, in average bits (segments + 1).
    """
    known = np.concatenate([evaluated.index, pending])
    score = acquisition(surrogate.fantasise(pending), space, known, evaluated.loss, bits)
    excluded = np.concatenate([known, evaluated.exclude])
    taken = {row.tobytes() for row in excluded}
    share = settings.empty_segment_share
    if share and len(pending) % share == share - 1:
        known_segments = segment_of(space.average_bits(known), edges)
        in_empty = pool[~np.isin(segment_of(space.average_bits(pool), edges), known_segments)]
        best, _ = best_new(in_empty, score(in_empty), taken, 1)
        if len(best):
            return np.asarray(best[0])
    starts, values = best_new(pool, score(pool), taken, _LAST_STARTS)
    steps = min(settings.steps, _LAST_STEPS)
    climbed, climbed_values = local_search(score, starts, steps, settings.moves, excluded)
    candidates = np.concatenate([starts, climbed])
    best, _ = best_new(candidates, np.concatenate([values, climbed_values]), taken, 1)
    return np.asarray(best[0]) if len(best) else _any_new(score, excluded, taken)


def _any_new(score: Score, around: Integers, taken: set[bytes]) -> Integers | None:
    """Return the best new neighbour of the first point that has one.

    In a small space that is nearly used up, local searches see only known configurations.
    """
    for point in around:
        points = moved(point, *score.space.neighbours(point))
        best, _ = best_new(points, score(points), taken, 1)
        if len(best):
            return np.asarray(best[0])
    return None
