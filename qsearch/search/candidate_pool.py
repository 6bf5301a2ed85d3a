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

_BUDGET_WINDOW = 0.01
"""Share of the searched interval, right below a budget, that a local search is made in."""


@dataclass(frozen=True)
class SearchSettings:
    """How far the search looks.

    The pool has ``starts`` local searches, each within a window of average bits of its own. Each
    takes at most ``steps`` steps, and a step moves at most ``moves`` groups. Allocations are made
    at ``allocations`` budgets. Every n-th candidate (``empty_segment_share``) goes to a segment
    without any evaluated configuration; 0 for none. Every second candidate is the one of least
    estimated loss within one of ``budgets`` (average bits), which take turns.
    """

    starts: int = 12
    steps: int = 4
    moves: int = 1024
    allocations: int = 40
    empty_segment_share: int = 4
    budgets: tuple[float, ...] = ()


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
    budgets = [*np.linspace(*bits, settings.allocations).tolist(), *settings.budgets]
    by_group = [surrogate.features.proxy.numpy(), surrogate.mean_table]
    allocations = np.concatenate([relaxed_allocations(space, table, budgets) for table in by_group])
    random = sample_configurations(space, max(settings.starts // 3, 1), bits, generator)
    sources = np.concatenate([best_known, allocations, random])
    starts, windows = _windowed_starts(score, sources, bits, settings)
    taken = np.concatenate([known, evaluated.exclude])
    climbed, _ = local_search(score, starts, settings.steps, settings.moves, taken, windows)
    pool = np.concatenate([climbed, allocations, random])
    return best_new(pool, score(pool), {row.tobytes() for row in taken}, len(pool))[0]


def _windowed_starts(
    score: Improvement, sources: Integers, bits: tuple[float, float], settings: SearchSettings
) -> tuple[Integers, Floats]:
    """Return the best-scored source in each window of average bits that has one, and its window.

    The windows are equal ones, and those right below budgets.
    """
    edges, high = np.linspace(*bits, settings.starts + 1), np.array(settings.budgets)
    below = np.column_stack([high - _BUDGET_WINDOW * (bits[1] - bits[0]), high])
    values, average = score(sources), score.space.average_bits(sources)
    window, usable = segment_of(average, edges), np.isfinite(values)
    members = [np.flatnonzero((window == number) & usable) for number in range(settings.starts)]
    members += [
        np.flatnonzero((average >= low) & (average <= high) & usable) for low, high in below
    ]
    windows = np.concatenate([np.column_stack([edges[:-1], edges[1:]]), below])
    some = [number for number, rows in enumerate(members) if len(rows)]
    best = [int(members[number][values[members[number]].argmax()]) for number in some]
    return sources[best], windows[some]
