"""Proxy scores of layer configurations, and the allocator that needs nothing else.

A *score* is a predicted rise of the loss when one group takes one layer configuration; scores add
over groups. From scores alone an integer program allocates bits under any budget (as in LQ-LoRA,
AutoScheme and ModelOpt). qsearch uses that as a warm start and as the prior mean of its surrogate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError, QsearchError
from qsearch.search.pareto import non_dominated
from qsearch.space.space import Space

_RELATIVE_GAP = 1e-4
"""Gap to the best bound at which an allocation counts as optimal."""

_NODE_LIMIT = 500
"""Nodes after which the solver's best allocation is taken, whatever its gap.

Layers of nearly equal scores make the search for a proof endless; what it then still gains is tiny.
"""

_MAX_PRICE = 2.0**200
"""Bound of the search for the price of a bit."""

_ROW_SCALE = 0.1
"""Scale of the budget's row: HiGHS meets it within 1e-6, and prints lines where it has to repair
solutions that miss it by rounding. An excess is taken off the budget, and it solves anew.
"""


def allocate(space: Space, scores: Floats, budget: float) -> Integers:
    """Return the configuration of least total score within a budget.

    A multiple-choice knapsack: one choice for each group, solved as a mixed-integer linear program
    by HiGHS over the choices that an optimal allocation can hold. Where many layers have nearly
    equal scores, a proof of the optimum takes too long; the best allocation found is then returned.

    Args:
        space: The space; tied groups share a choice.
        scores: Predicted rise of the loss (groups × choices), finite.
        budget: Most average bits.

    Returns:
        Choice indices (groups), whose average bits are at most the budget.

    Raises:
        InputError: If the scores cannot be used, or the budget is below the least average bits.
        QsearchError: If the solver fails.
    """
    expected = (len(space.groups), space.choices.size)
    if scores.shape != expected or not np.isfinite(scores).all():
        raise InputError(f"scores must be finite with shape {expected}, not {scores.shape}")
    least = space.average_bits_range[0]
    if not budget >= least:
        raise InputError(f"budget {budget:g} is below the least average bits, {least:.6g}")
    greedy, options = _bounded(space, scores, budget)
    if options is None:
        return greedy
    limit = budget
    for _ in range(10):
        index = _solve(space, scores, options, limit)
        if index is None or _total(scores, greedy) <= _total(scores, index):
            return greedy
        excess = float(space.average_bits(index)) - budget
        if excess <= 0:
            return index
        limit = max(limit - 1.01 * excess, least)
    raise QsearchError(f"the allocator found no configuration within {budget:g} average bits")


def allocate_front(space: Space, scores: Floats, budgets: Sequence[float]) -> Integers:
    """Return the allocator's distinct configurations over several budgets (n × groups).

    Args:
        space: The space.
        scores: Predicted rise of the loss (groups × choices).
        budgets: Most average bits of each allocation; those below the space's least are left out.
    """
    least = space.average_bits_range[0]
    found = [allocate(space, scores, budget) for budget in sorted(budgets) if budget >= least]
    distinct = {index.tobytes(): index for index in found}
    return np.array(list(distinct.values()), dtype=np.int64).reshape(-1, len(space.groups))


def relaxed_allocations(space: Space, scores: Floats, budgets: Sequence[float]) -> Integers:
    """Return near-optimal allocations for many budgets at once, far faster than the exact ones.

    The greedy solution of the relaxed program: from the fewest bits, groups are upgraded along
    the lower convex hulls of their (bits, score) in order of gain per bit, as long as the budget
    holds. It misses the optimum by less than one upgrade.

    Args:
        space: The space; tied groups share a choice.
        scores: Predicted rise of the loss (groups × choices); +∞ forbids a choice.
        budgets: Most average bits of each allocation; those below the space's least are left out.

    Returns:
        Choice indices (budgets × groups).

    Raises:
        InputError: If the scores cannot be used, or a group has no choice.
    """
    expected = (len(space.groups), space.choices.size)
    if scores.shape != expected or np.isnan(scores).any() or not np.isfinite(scores).any(1).all():
        raise InputError(f"scores must have shape {expected} and a finite value for each group")
    share = space.group_share
    hulls = [_lower_hull(row, space.bits_table) for row in scores]
    start = np.array([hull[0] for hull in hulls], dtype=np.int64)
    groups = np.repeat(np.arange(len(hulls)), [len(hull) - 1 for hull in hulls])
    before = np.concatenate([hull[:-1] for hull in hulls])
    after = np.concatenate([hull[1:] for hull in hulls])
    cost = share[groups] * (space.bits_table[after] - space.bits_table[before])
    gain = scores[groups, before] - scores[groups, after]
    order = np.argsort(-gain / cost, kind="stable")
    least = float(share @ space.bits_table[start])
    allocations = []
    for budget in budgets:
        if budget < least:
            continue
        index, left = start.copy(), budget - least
        full = np.zeros(len(hulls), dtype=bool)
        for upgrade in order.tolist():
            group = groups[upgrade]
            if full[group]:
                continue
            if cost[upgrade] <= left:
                index[group] = after[upgrade]
                left -= cost[upgrade]
            else:
                full[group] = True
        allocations.append(index)
    return np.array(allocations, dtype=np.int64).reshape(-1, len(hulls))


def _lower_hull(scores: Floats, bits: Floats) -> Integers:
    """Return the choices on the lower convex hull, from the fewest bits to the least score."""
    finite = np.flatnonzero(np.isfinite(scores))
    efficient = finite[efficient_choices(scores[finite], bits[finite])]
    hull: list[int] = []
    for choice in efficient[np.argsort(bits[efficient])].tolist():
        while len(hull) > 1 and _slope(scores, bits, hull[-2], choice) <= _slope(
            scores, bits, hull[-2], hull[-1]
        ):
            hull.pop()
        hull.append(choice)
    return np.array(hull, dtype=np.int64)


def _slope(scores: Floats, bits: Floats, first: int, second: int) -> float:
    return float((scores[second] - scores[first]) / (bits[second] - bits[first]))


def efficient_choices(scores: Floats, bits: Floats) -> Integers:
    """Return the choices that no other betters in both score and bits, in their order.

    Args:
        scores: Predicted rise of the loss (choices).
        bits: Storage bits per weight (choices).

    Returns:
        Choice indices; of equal choices the first.
    """
    points = np.column_stack([scores, bits])
    kept = np.flatnonzero(non_dominated(points))
    _, first = np.unique(points[kept], axis=0, return_index=True)
    return kept[np.sort(first)]


def _total(scores: Floats, index: Integers) -> float:
    return float(scores[np.arange(len(scores)), index].sum())


def _bounded(space: Space, scores: Floats, budget: float) -> tuple[Integers, list[Integers] | None]:
    """Return the greedy allocation, and the choices that a better one can hold.

    A choice is out if another betters it in both bits and score, or if its reduced cost alone lifts
    the Lagrangian bound above the greedy allocation's score. There are none (None) where the greedy
    allocation meets the bound within the gap already.
    """
    share = space.group_share
    weight = share[:, None] * space.bits_table[None, :]
    groups = np.arange(len(scores))

    def excess(price: float) -> float:
        cheapest = (scores + price * weight).argmin(axis=1)
        return float(weight[groups, cheapest].sum()) - budget

    high = 1.0
    while excess(high) > 0 and high < _MAX_PRICE:
        high *= 2
    low = 0.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    reduced = scores + high * weight
    least = reduced.min(axis=1)
    bound = float(least.sum()) - high * budget
    fewest = np.full(len(scores), int(space.bits_table.argmin()))
    feasible = [fewest, *relaxed_allocations(space, scores, [budget])]
    greedy = min(feasible, key=lambda index: _total(scores, index))
    total = _total(scores, greedy)
    if total - bound <= _RELATIVE_GAP * abs(bound):
        return greedy, None
    kept = reduced - least[:, None] <= (total - bound) * (1 + _RELATIVE_GAP)
    kept[groups, greedy] = True
    return greedy, [
        np.flatnonzero(keep)[efficient_choices(row[keep], space.bits_table[keep])]
        for row, keep in zip(scores, kept, strict=True)
    ]


def _solve(space: Space, scores: Floats, options: list[Integers], budget: float) -> Integers | None:
    """Return the best allocation of some choices, or None if none was found in time."""
    sizes = [len(option) for option in options]
    columns = np.arange(sum(sizes))
    groups = np.repeat(np.arange(len(options)), sizes)
    choices = np.concatenate(options)
    share = space.group_share
    cost = scores[groups, choices]
    scale = max(float(np.ptp(scores, axis=1).sum()), 1e-300)
    one_each = csr_array((np.ones(len(columns)), (groups, columns)))
    result = milp(
        cost / scale,
        integrality=np.ones(len(columns), dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(
                _ROW_SCALE * (share[groups] * space.bits_table[choices])[None, :],
                -np.inf,
                _ROW_SCALE * budget,
            ),
        ],
        # With presolve, HiGHS prints lines of its own to the terminal.
        options={
            "mip_rel_gap": _RELATIVE_GAP,
            "node_limit": _NODE_LIMIT,
            "presolve": False,
        },
    )
    if result.x is None:
        if result.status == 1:
            return None
        raise QsearchError(f"the allocator failed at {budget:g} average bits: {result.message}")
    index = np.zeros(len(options), dtype=np.int64)
    chosen = np.flatnonzero(result.x > 0.5)
    index[groups[chosen]] = choices[chosen]
    return index
