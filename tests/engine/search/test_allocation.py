"""Bit allocation from scores alone."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError, QsearchError
from qsearch.search.allocation import allocate, allocate_front, relaxed_allocations
from qsearch.search.layer_scores import error_scores
from qsearch.space.configuration_space import ConfigurationSpace
from tests.engine.fake_study import (
    INTEGER,
    bits_of,
    errors_of,
    make_layers,
    make_space,
    shape_bits_of,
)

# Three layers of unequal size, so that all 512 configurations can be listed.
SMALL = ConfigurationSpace(make_layers(1)[3:6:2] + make_layers(1)[4:5], INTEGER, bits_of(INTEGER))
EVERYTHING = np.array(list(itertools.product(range(8), repeat=3)), dtype=np.int64)
SHAPED = ConfigurationSpace(
    make_layers(1)[4:], INTEGER, bits_of(INTEGER), (), shape_bits_of(INTEGER)
)
PARTLY = replace(SMALL, shape_choices={SMALL.layers[1].shape: (1, 2, 7)})
"""The second and the third layer take three of the eight choices."""
BITS = SMALL.average_bits(EVERYTHING)
MIN, MAX = SMALL.average_bits_range

seeds = st.integers(0, 10**6)
budgets = st.floats(MIN, MAX + 1)


def random_scores(seed: int, space: ConfigurationSpace = SMALL) -> Floats:
    """Scores of any sign and of very different sizes, more bits often but not always better."""
    generator = np.random.default_rng(seed)
    shape = (len(space.groups), space.choices.size)
    falling = generator.lognormal(0, 2, (shape[0], 1)) * 4.0 ** -generator.permuted(
        np.sort(space.bits_table) + generator.normal(0, 0.5, shape), axis=0
    )
    return falling - generator.random((shape[0], 1))


def total(scores: Floats, index: Integers) -> Floats:
    """Total scores (…) of choice indices (… × groups)."""
    return np.asarray(scores[np.arange(len(scores)), index].sum(axis=-1))


# Exact allocation


@settings(max_examples=30)
@given(st.sampled_from([SMALL, SHAPED, PARTLY]), seeds, budgets)
def test_allocation_equals_brute_force(space: ConfigurationSpace, seed: int, budget: float) -> None:
    scores, budget = random_scores(seed), max(budget, space.average_bits_range[0])
    index = allocate(space, scores, budget)
    assert float(space.average_bits(index)) <= budget
    assert space.possible[np.arange(3), index].all()
    all_of_them = EVERYTHING[space.possible[np.arange(3), EVERYTHING].all(axis=1)]
    best = total(scores, all_of_them[budget >= space.average_bits(all_of_them)]).min()
    # The solver's relative gap, and its absolute one on scores that were scaled to 1.
    gap = 1e-4 * abs(best) + 1e-6 * np.abs(scores).max()
    assert best - 1e-12 <= total(scores, index) <= best + gap


@pytest.mark.parametrize("position", [0, 7, 200, 511])
def test_budget_that_a_configuration_meets_exactly_is_used_up(position: int) -> None:
    budget = float(np.sort(BITS)[position])
    scores = np.tile(-SMALL.bits_table, (3, 1)) * SMALL.group_parameters[:, None]
    assert float(SMALL.average_bits(allocate(SMALL, scores, budget))) == budget


@settings(max_examples=15)
@given(seeds, st.floats(2.25, 8.5))
def test_budget_is_never_exceeded_by_any_amount(seed: int, budget: float) -> None:
    """Storage bits that no float holds exactly meet the solver's tolerance."""
    thirds = tuple(bits + 0.1 / 3 for bits in bits_of(INTEGER))
    space = ConfigurationSpace(make_layers(2), INTEGER, thirds)
    budget = max(budget, space.average_bits_range[0])
    index = allocate(space, random_scores(seed, space), budget)
    assert float(space.average_bits(index)) <= budget


@pytest.mark.parametrize("seed", range(4))
def test_budget_that_a_configuration_misses_by_rounding_is_held(seed: int) -> None:
    scores = random_scores(seed)
    for bits in np.unique(BITS[BITS > MIN + 0.1])[::60].tolist():
        budget = math.nextafter(bits, 0.0)
        assert SMALL.average_bits(allocate(SMALL, scores, budget)) <= budget


def test_least_budget_is_met_whatever_the_rounding() -> None:
    for blocks, shift in itertools.product((1, 3, 5), (0.1, 0.3, 1 / 3, 0.7)):
        space = ConfigurationSpace(
            make_layers(blocks), INTEGER, tuple(b + shift for b in bits_of(INTEGER))
        )
        lowest = np.full(len(space.groups), int(space.bits_table.argmin()))
        index = allocate(space, random_scores(0, space), space.average_bits_range[0])
        assert (index == lowest).all()


def test_a_worse_choice_of_as_many_bits_is_never_taken() -> None:
    scores = random_scores(1)
    space = ConfigurationSpace(SMALL.layers, INTEGER, (2.5, 2.5, 3.5, 3.5, 4.5, 4.5, 8.5, 8.5))
    for budget in (2.5, 4.0, 9.0):
        index = allocate(space, scores, budget)
        assert (total(scores, index) <= total(scores, index ^ 1)).all()


@pytest.mark.parametrize("budget", [2.6, 4.7])
def test_layers_that_are_nearly_equal_are_no_worse_than_relaxed(budget: float) -> None:
    """No solver proves an optimum among so many equals; the best one found is taken."""
    space = make_space(1, INTEGER)
    nearly = 1 + 1e-3 * np.random.default_rng(0).random((len(space.layers), 1))
    scores = error_scores(space, errors_of(space) * nearly)
    index = allocate(space, scores, budget)
    assert float(space.average_bits(index)) <= budget
    relaxed = relaxed_allocations(space, scores, [budget])[0]
    assert total(scores, index) <= total(scores, relaxed) * (1 + 1e-4)


@pytest.mark.parametrize("budget", [MIN - 1e-9, 0.0, float("nan")])
def test_budget_below_the_least_is_refused(budget: float) -> None:
    with pytest.raises(InputError, match=r"budget .* is below the least average bits, 2\.25"):
        allocate(SMALL, random_scores(0), budget)


def test_unusable_scores_are_refused() -> None:
    scores = random_scores(0)
    for wrong in (scores[:2], scores[:, :5], np.where(scores == scores.max(), np.inf, scores)):
        with pytest.raises(InputError, match=r"scores must be finite with shape \(3, 8\)"):
            allocate(SMALL, wrong, 4.0)


def test_solver_that_finds_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        x, status, message = None, 2, "infeasible"

    monkeypatch.setattr("scipy.optimize.milp", lambda *_, **__: Nothing)
    with pytest.raises(QsearchError, match="allocator failed at 4 average bits: infeasible"):
        allocate(SMALL, random_scores(0), 4.0)


# The front over budgets


def test_front_takes_budgets_in_any_order_and_leaves_out_those_too_low() -> None:
    scores = error_scores(SMALL, errors_of(SMALL))
    found = allocate_front(SMALL, scores, [6.0, 1.0, 3.0, 6.0])
    expected = [allocate(SMALL, scores, budget) for budget in (3.0, 6.0)]
    assert (found == np.array(expected)).all()
    assert allocate_front(SMALL, scores, [1.0]).shape == (0, 3)


# Relaxed allocation


def forbidden(scores: Floats, seed: int) -> Floats:
    """Forbid some choices, but never all of a group's."""
    generator = np.random.default_rng(seed)
    forbid = generator.random(scores.shape) < 0.4
    forbid[np.arange(len(scores)), generator.integers(scores.shape[1], size=len(scores))] = False
    return np.where(forbid, np.inf, scores)


@settings(max_examples=50)
@given(seeds, budgets, st.booleans())
def test_relaxed_allocation_misses_the_optimum_by_less_than_an_upgrade(
    seed: int, budget: float, forbid: bool
) -> None:
    scores = random_scores(seed)
    scores = forbidden(scores, seed) if forbid else scores
    found = relaxed_allocations(SMALL, scores, [budget])
    allowed = EVERYTHING[np.isfinite(total(scores, EVERYTHING)) & (budget >= BITS)]
    if not len(allowed):
        assert len(found) == 0
        return
    (index,) = found
    assert float(SMALL.average_bits(index)) <= budget + 1e-12
    best = float(total(scores, allowed).min())
    finite = np.where(np.isfinite(scores), scores, np.nan)
    upgrade = float((np.nanmax(finite, axis=1) - np.nanmin(finite, axis=1)).max())
    assert best - 1e-12 <= float(total(scores, index)) < best + upgrade + 1e-12


def test_relaxed_allocations_of_many_budgets_are_those_of_each() -> None:
    scores = random_scores(5)
    asked = [1.0, 2.3, 3.0, 4.5, 9.0]
    found = relaxed_allocations(SMALL, scores, asked)
    single = np.concatenate([relaxed_allocations(SMALL, scores, [budget]) for budget in asked])
    assert (found == single).all()
    assert len(found) == 4  # a budget of 1 is below the least
    assert (found[-1] == scores.argmin(axis=1)).all()


def test_relaxed_allocation_leaves_an_upgrade_that_makes_nothing_better() -> None:
    rising = np.tile(SMALL.bits_table, (3, 1))
    (index,) = relaxed_allocations(SMALL, rising, [9.0])
    assert (SMALL.bits_table[index] == SMALL.bits_table.min()).all()


def test_scores_that_leave_a_group_no_choice_are_refused() -> None:
    scores = random_scores(0)
    scores[1] = np.inf
    with pytest.raises(InputError, match="a finite value for each group"):
        relaxed_allocations(SMALL, scores, [4.0])
    for wrong in (scores[:1], np.full((3, 8), np.nan)):
        with pytest.raises(InputError, match=r"scores must have shape \(3, 8\)"):
            relaxed_allocations(SMALL, wrong, [4.0])
