"""The pool of promising configurations that a batch of candidates is chosen from.

The paper ascends the acquisition along finite differences (α(C+δe_i) − α(C−δe_i)) / 2δ. Knobs
are discrete, so here a difference is the change from one in-range step of one knob of one group.

The proxy and the surrogate's mean add over groups, so the best configuration of each under any
budget is an allocation of bits; to these come local searches from the front, from allocations and
from random points, each within its own window of average bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsearch._arrays import Floats, Integers
from qsearch.search.acquisition import Improvement, acquisition, estimated_points
from qsearch.search.allocation import relaxed_allocations
from qsearch.search.local_search import best_new, local_search
from qsearch.search.pareto import non_dominated, segment_of
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations
from qsearch.surrogate.surrogate import Surrogate


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


def candidate_pool(
    surrogate: Surrogate,
    space: ConfigurationSpace,
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
    best_known = known[non_dominated(estimated_points(surrogate, space, known))]
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
