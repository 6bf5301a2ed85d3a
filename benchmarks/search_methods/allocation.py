"""Peers that learn nothing from evaluations: random, uniform, and the proxy allocator's front."""

from __future__ import annotations

import numpy as np

from benchmarks.search_methods.ladders import ladder_of, spread_order
from benchmarks.search_methods.protocol import Archive, Problem, Proposals, random_new, renewed
from qsearch._arrays import Integers
from qsearch.search.allocation import allocate

_FIRST_BUDGETS = 11
"""Budgets of the allocator's first pass; each later pass halves their spacing."""

_MIN_SPACING = 0.004
"""Spacing of budgets, in average bits, below which the allocator gives up."""


def random_peer(problem: Problem, generator: np.random.Generator) -> Proposals:
    """Draw uniformly over average bits (:func:`~qsearch.space.sampling.sample_configurations`)."""
    archive = Archive(problem)
    while (candidate := random_new(archive, generator)) is not None:
        archive.add(candidate, (yield candidate))


def uniform_peer(problem: Problem, generator: np.random.Generator) -> Proposals:
    """Quantize all layers alike, with the best layer configurations spread over the interval.

    First those that no other dominates in bits and total score, in an order that spreads over
    bits from the beginning (ends, middle, quarters, …); then those that only the first dominate,
    and so on. It ends when the interval has no further layer configuration, which in a typical
    space is after some 400 evaluations.
    """
    archive, table = Archive(problem), problem.space.bits_table
    left = np.arange(len(table))
    left = left[[archive.admits(_alike(problem, choice)) for choice in left.tolist()]]
    while len(left):
        layer = left[ladder_of(problem.mean_scores[left], table[left])]
        for position in spread_order(len(layer)):
            candidate = _alike(problem, int(layer[position]))
            archive.add(candidate, (yield candidate))
        left = np.setdiff1d(left, layer)


def _alike(problem: Problem, choice: int) -> Integers:
    return np.full(len(problem.space.groups), choice, dtype=np.int64)


def allocator_peer(problem: Problem, generator: np.random.Generator) -> Proposals:
    """Evaluate the front of the proxy allocator (:func:`qsearch.search.allocation.allocate`).

    The integer program that LQ-LoRA (arXiv 2311.12023, section 3.2) solves, for evenly spaced
    budgets over the interval; when they run out, their spacing is halved. An allocation that falls
    below the interval (as at its lower end, where no configuration has exactly the budget) is
    repaired upward. It ends when budgets closer than 0.004 bits are used up.
    """
    archive = Archive(problem)
    low, high = problem.bits
    intervals, done = _FIRST_BUDGETS - 1, set[float]()
    while (high - low) / intervals >= _MIN_SPACING:
        budgets = np.linspace(low, high, intervals + 1)
        for position in spread_order(len(budgets)):
            budget = round(float(budgets[position]), 9)
            if budget in done or budget < problem.space.average_bits_range[0]:
                continue
            done.add(budget)
            candidate = allocate(problem.space, problem.scores, budget)
            if not problem.space.within(candidate, problem.bits):
                near = renewed(archive, candidate, generator)
                candidate = candidate if near is None else near
            if archive.admits(candidate):
                archive.add(candidate, (yield candidate))
        intervals *= 2
