"""Bit allocation from scores of layer configurations alone.

A *score* is the predicted rise of the loss when one group takes one layer configuration; scores add
over groups. To allocate bits under a budget is then a multiple-choice knapsack (as in LQ-LoRA,
AutoScheme and ModelOpt). qsearch uses allocations as a warm start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qsearch._arrays import Booleans, Floats, Integers
from qsearch.errors import InputError, QsearchError
from qsearch.search.pareto import non_dominated
from qsearch.space.configuration_space import ConfigurationSpace

_RELATIVE_GAP = 1e-4
"""Gap to the best bound at which an allocation counts as optimal."""

_NODE_LIMIT = 500
"""Nodes after which the solver's best allocation is taken, whatever its gap.

Layers of nearly equal scores make the search for a proof endless; what it then still gains is tiny.
"""

_ROW_SCALE = 0.1
"""Scale of the budget's row: HiGHS meets it within 1e-6, and prints lines where it has to repair
solutions that miss it by rounding."""

_SLACKS = (0.0, 1e-5, 1e-4)
"""Average bits by which the solver's budget is less, one after the other, until its allocation is
within the budget: the solver may miss it by rounding."""


def allocate(space: ConfigurationSpace, scores: Floats, budget: float) -> Integers:
    """Return the configuration (groups) of least total score within a budget of average bits.

    The greedy allocation where it is within the gap of the optimum, else that of a mixed-integer
    linear program, over the choices that a better allocation can hold. Scores (groups × choices)
    are finite; those of choices that a group cannot take do not matter.
    """
    expected = (len(space.groups), space.choices.size)
    if scores.shape != expected or not np.isfinite(scores).all():
        raise InputError(f"scores must be finite with shape {expected}, not {scores.shape}")
    least = space.average_bits_range[0]
    if not budget >= least:
        raise InputError(f"budget {budget:g} is below the least average bits, {least:.6g}")
    scores = np.where(space.possible, scores, np.inf)
    upgrades = _upgrades(space, scores)
    fewest = np.where(space.possible, space.group_bits, np.inf).argmin(axis=1)
    greedy = fewest if budget < upgrades.least else upgrades.allocate(budget)
    options = _options(space, scores, budget, greedy, upgrades.price(budget))
    if options is None:
        return greedy
    for slack in _SLACKS:
        index = _solve(space, scores, options, max(budget - slack, least))
        if index is None or _total(scores, greedy) <= _total(scores, index):
            return greedy
        if float(space.average_bits(index)) <= budget:
            return index
    return greedy


def allocate_front(space: ConfigurationSpace, scores: Floats, budgets: Sequence[float]) -> Integers:
    """Return the distinct allocations of several budgets (n × groups), by rising budget.

    Budgets below the space's least average bits are left out.
    """
    least = space.average_bits_range[0]
    rows = [allocate(space, scores, budget) for budget in sorted(budgets) if budget >= least]
    distinct = {index.tobytes(): index for index in rows}
    return np.array(list(distinct.values()), dtype=np.int64).reshape(-1, len(space.groups))


def relaxed_allocations(
    space: ConfigurationSpace, scores: Floats, budgets: Sequence[float]
) -> Integers:
    """Return near-optimal allocations (budgets × groups), far faster than the exact ones.

    The greedy solution of the relaxed program: from the fewest bits, groups are upgraded along the
    lower convex hulls of their (bits, score) in order of gain per bit, as long as the budget holds.
    It misses the optimum by less than one upgrade. A score of +∞ forbids a choice. Budgets below
    the least average bits are left out.
    """
    expected = (len(space.groups), space.choices.size)
    if scores.shape != expected or np.isnan(scores).any() or not np.isfinite(scores).any(1).all():
        raise InputError(f"scores must have shape {expected} and a finite value for each group")
    upgrades = _upgrades(space, np.where(space.possible, scores, np.inf))
    rows = [upgrades.allocate(budget) for budget in budgets if budget >= upgrades.least]
    return np.array(rows, dtype=np.int64).reshape(-1, len(space.groups))


@dataclass(frozen=True)
class _Upgrades:
    """Steps along the lower convex hulls of all groups, by falling gain per bit.

    They start at the choices of fewest bits (groups), whose average bits are ``least``. A step
    (steps) gives its group a choice; that raises average bits by its cost, and lowers the score by
    its gain for each of them.
    """

    start: Integers
    least: float
    group: Integers
    choice: Integers
    cost: Floats
    gain: Floats

    def allocate(self, budget: float) -> Integers:
        """Return the choices (groups) after all steps that fit; a group's steps end at a misfit."""
        index, left = self.start.copy(), budget - self.least
        full = np.zeros(len(index), dtype=bool)
        for step in range(len(self.group)):
            group = self.group[step]
            if full[group]:
                continue
            if self.cost[step] <= left:
                index[group] = self.choice[step]
                left -= self.cost[step]
            else:
                full[group] = True
        return index

    def price(self, budget: float) -> float:
        """Return the score that one more average bit is worth: the gain of the first misfit."""
        misfits = np.flatnonzero(np.cumsum(self.cost) > budget - self.least)
        return float(self.gain[misfits[0]]) if len(misfits) else 0.0


def _upgrades(space: ConfigurationSpace, scores: Floats) -> _Upgrades:
    share, bits = space.group_share, space.group_bits
    hulls = [_lower_hull(row, own) for row, own in zip(scores, bits, strict=True)]
    start = np.array([hull[0] for hull in hulls], dtype=np.int64)
    group = np.repeat(np.arange(len(hulls)), [len(hull) - 1 for hull in hulls])
    before = np.concatenate([hull[:-1] for hull in hulls])
    after = np.concatenate([hull[1:] for hull in hulls])
    cost = share[group] * (bits[group, after] - bits[group, before])
    gain = (scores[group, before] - scores[group, after]) / cost
    order = np.argsort(-gain, kind="stable")
    least = float(share @ bits[np.arange(len(start)), start]) + space.pinned_bits
    return _Upgrades(start, least, group[order], after[order], cost[order], gain[order])


def _lower_hull(scores: Floats, bits: Floats) -> Integers:
    """Return the choices on the lower convex hull, from the fewest bits to the least score."""

    def slope(first: int, second: int) -> float:
        return float((scores[second] - scores[first]) / (bits[second] - bits[first]))

    finite = np.flatnonzero(np.isfinite(scores))
    efficient = finite[efficient_choices(scores[finite], bits[finite])]
    hull: list[int] = []
    for choice in efficient[np.argsort(bits[efficient])].tolist():
        while len(hull) > 1 and slope(hull[-2], choice) <= slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(choice)
    return np.array(hull, dtype=np.int64)


def efficient_choices(scores: Floats, bits: Floats) -> Integers:
    """Return the non-dominated choices by score and bits, in their order; of equals the first."""
    points = np.column_stack([scores, bits])
    kept = np.flatnonzero(non_dominated(points))
    _, first = np.unique(points[kept], axis=0, return_index=True)
    return kept[np.sort(first)]


def _total(scores: Floats, index: Integers) -> float:
    return float(scores[np.arange(len(scores)), index].sum())


def _options(
    space: ConfigurationSpace, scores: Floats, budget: float, greedy: Integers, price: float
) -> list[Integers] | None:
    """Return the choices of each group that an allocation better than the greedy one can hold.

    A choice is out if another dominates it in bits and score, or if its reduced cost alone lifts
    the Lagrangian bound above the greedy allocation's score. There are none (None) where the greedy
    allocation meets the bound within the gap already.
    """
    reduced = scores + price * (space.group_share[:, None] * space.group_bits)
    least = reduced.min(axis=1)
    bound = float(least.sum()) - price * (budget - space.pinned_bits)
    gap = _total(scores, greedy) - bound
    if gap <= _RELATIVE_GAP * abs(bound):
        return None
    possible: Booleans = reduced - least[:, None] <= gap * (1 + _RELATIVE_GAP)
    possible[np.arange(len(scores)), greedy] = True
    return [
        np.flatnonzero(mask)[efficient_choices(row[mask], bits[mask])]
        for row, bits, mask in zip(scores, space.group_bits, possible, strict=True)
    ]


def _solve(
    space: ConfigurationSpace, scores: Floats, options: list[Integers], budget: float
) -> Integers | None:
    """Return the best allocation of some choices, or None if none was found in time."""
    # Here, because `qsearch check` allocates nothing and answers in less than a second.
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    sizes = [len(option) for option in options]
    columns = np.arange(sum(sizes))
    groups = np.repeat(np.arange(len(options)), sizes)
    choices = np.concatenate(options)
    finite = np.isfinite(scores)
    greatest = scores.max(axis=1, where=finite, initial=-np.inf)
    scale = max(float((greatest - scores.min(axis=1)).sum()), 1e-300)
    one_each = csr_array((np.ones(len(columns)), (groups, columns)))
    bits = _ROW_SCALE * (space.group_share[groups] * space.group_bits[groups, choices])[None, :]
    result = milp(
        scores[groups, choices] / scale,
        integrality=np.ones(len(columns), dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(bits, -np.inf, _ROW_SCALE * (budget - space.pinned_bits)),
        ],
        # With presolve, HiGHS prints lines of its own to the terminal.
        options={"mip_rel_gap": _RELATIVE_GAP, "node_limit": _NODE_LIMIT, "presolve": False},
    )
    if result.x is None:
        if result.status == 1:
            return None
        raise QsearchError(f"the allocator failed at {budget:g} average bits: {result.message}")
    index = np.zeros(len(options), dtype=np.int64)
    taken = np.flatnonzero(result.x > 0.5)
    index[groups[taken]] = choices[taken]
    return index
