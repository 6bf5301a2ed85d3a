"""The choice of the next configuration to evaluate.

It is the pool's best one given those chosen before it, improved by a short local search.
"""

from __future__ import annotations

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.search.acquisition import acquisition
from qsearch.search.candidate_pool import Evaluated, SearchSettings
from qsearch.search.local_search import Score, best_new, local_search, moved
from qsearch.search.pareto import segment_of
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.surrogate.surrogate import Surrogate

_LAST_STEPS = 2
"""Most steps of the local search that improves a candidate of the pool."""

_LAST_STARTS = 2
"""Configurations of the pool that it starts from."""


def next_candidate(
    surrogate: Surrogate,
    space: ConfigurationSpace,
    evaluated: Evaluated,
    pool: Integers,
    pending: Integers,
    bits: tuple[float, float],
    edges: Floats,
    settings: SearchSettings,
) -> Integers | None:
    """Return the new configuration (groups) of greatest improvement; None if there is none.

    The surrogate is fitted to the evaluated configurations. Pending ones are proposed but not
    evaluated (m × groups): their losses are fantasised as their means, so the uncertainty near them
    shrinks. ``edges`` are those of the segments, in average bits (segments + 1).
    """
    known = np.concatenate([evaluated.index, pending])
    score = acquisition(surrogate.fantasise(pending), space, known, evaluated.loss, bits)
    excluded = np.concatenate([known, evaluated.exclude])
    taken = {row.tobytes() for row in excluded}
    if settings.budgets and len(pending) % 2 == 0:
        budget = settings.budgets[len(pending) // 2 % len(settings.budgets)]
        within = pool[space.average_bits(pool) <= budget]
        best, _ = best_new(within, -surrogate.predict(within)[0].numpy(), taken, 1)
        if len(best):
            return np.asarray(best[0])
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
