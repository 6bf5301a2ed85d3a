"""Finite-difference guided search."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.pareto import hypervolume
from qsearch.search import (
    Score,
    WalkSettings,
    guided_walk,
    next_candidate,
    reference_point,
)
from qsearch.space import Floats, Integers, Space
from qsearch.surrogate import error_features, fit_surrogate
from tests.engine.support import INTEGER, errors_of, make_space

SPACE = make_space(2, INTEGER)
BITS = (2.5, 6.0)
ERRORS = errors_of(SPACE)
SENSITIVITY = np.random.default_rng(0).permutation(2.0 ** -np.arange(len(SPACE.groups)))


def losses_of(index: Integers) -> Floats:
    return np.asarray(0.3 + ERRORS[np.arange(len(SPACE.groups)), index] @ SENSITIVITY)


def score_at(weight: float) -> Score:
    """A known objective: low loss at few bits."""
    return lambda index: -losses_of(index) - weight * SPACE.average_bits(index)


def keys(index: Integers) -> list[bytes]:
    return [row.tobytes() for row in index]


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 4))
def test_walk_returns_new_distinct_points_in_range_best_first(
    seed: int, starts: int, steps: int
) -> None:
    points = SPACE.sample(starts, BITS, np.random.default_rng(seed))
    before = points.copy()
    found, values = guided_walk(score_at(0.05), SPACE, points, WalkSettings(steps=steps))
    assert len(found) > 0
    assert len(set(keys(found))) == len(found)
    assert not set(keys(found)) & set(keys(points))
    assert ((found >= 0) & (found < SPACE.choices.size)).all()
    assert (np.diff(values) <= 0).all()
    assert values == pytest.approx(score_at(0.05)(found))
    assert (points == before).all()


def test_walk_climbs_to_the_optimum_of_an_additive_objective() -> None:
    score = score_at(0.02)
    # The objective is a sum over groups, so its optimum is each group's own.
    singles = -SENSITIVITY[:, None] * ERRORS[: len(SPACE.groups)]
    share = SPACE.group_parameters / SPACE.group_parameters.sum()
    best = (singles - 0.02 * share[:, None] * SPACE.bits_table).argmax(axis=1)
    starts = SPACE.sample(3, BITS, np.random.default_rng(0))
    _, values = guided_walk(score, SPACE, starts, WalkSettings(steps=200))
    assert values[0] == pytest.approx(float(score(best[None])[0]))


def test_walk_from_an_optimum_still_looks_at_its_neighbours() -> None:
    low = np.full((1, len(SPACE.groups)), int(SPACE.bits_table.argmin()), dtype=np.int64)
    found, _ = guided_walk(lambda i: -SPACE.average_bits(i), SPACE, low, WalkSettings())
    assert len(found) > 0
    assert low.tobytes() not in keys(found)


def test_walk_leaves_out_points_without_a_score() -> None:
    found, values = guided_walk(
        lambda index: np.where(SPACE.average_bits(index) < 4, -np.inf, score_at(0.1)(index)),
        SPACE,
        SPACE.sample(4, (2.5, 5), np.random.default_rng(0)),
        WalkSettings(),
    )
    assert np.isfinite(values).all()
    assert (SPACE.average_bits(found) >= 4).all()


def test_walk_from_points_without_a_score_is_silent() -> None:
    starts = SPACE.sample(2, (2.5, 3), np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = guided_walk(
            lambda index: np.full(len(index), -np.inf), SPACE, starts, WalkSettings()
        )
    assert len(found) == 0


def test_walk_without_starts_finds_nothing() -> None:
    starts = np.zeros((0, len(SPACE.groups)), dtype=np.int64)
    found, values = guided_walk(score_at(0.1), SPACE, starts, WalkSettings())
    assert len(found) == len(values) == 0


def test_reference_point_is_a_tenth_beyond_the_worst_loss() -> None:
    reference = reference_point(np.array([1.0, 3.0, 2.0]), (2.0, 5.0))
    assert reference == pytest.approx((3.2, 5.0))
    assert reference[1] > 5.0
    assert reference_point(np.array([1.0]), (2.0, 5.0))[0] > 1.0


def propose(
    count: int, seed: int, evaluated: Integers, failed: Integers, space: Space = SPACE
) -> list[Integers]:
    """Choose candidates one after another, as a round does."""
    surrogate = fit_surrogate(error_features(space, ERRORS), evaluated, losses_of(evaluated))
    chosen: list[Integers] = []
    for _ in range(count):
        pending = np.array(chosen, dtype=np.int64).reshape(-1, len(space.groups))
        found = next_candidate(
            surrogate,
            space,
            evaluated,
            losses_of(evaluated),
            pending,
            failed,
            BITS,
            np.random.default_rng([seed, len(chosen)]),
        )
        assert found is not None
        chosen.append(found)
    return chosen


def test_candidates_are_new_distinct_and_within_the_bits() -> None:
    generator = np.random.default_rng(1)
    evaluated, failed = SPACE.sample(12, BITS, generator), SPACE.sample(3, BITS, generator)
    chosen = np.array(propose(5, 0, evaluated, failed))
    assert len(set(keys(chosen))) == 5
    assert not set(keys(chosen)) & set(keys(np.concatenate([evaluated, failed])))
    bits = SPACE.average_bits(chosen)
    assert ((bits >= BITS[0]) & (bits <= BITS[1])).all()


def test_excluded_configurations_are_never_proposed() -> None:
    evaluated = SPACE.sample(12, BITS, np.random.default_rng(1))
    none = np.zeros((0, len(SPACE.groups)), dtype=np.int64)
    (first,) = propose(1, 0, evaluated, none)
    (second,) = propose(1, 0, evaluated, first[None])
    assert (first != second).any()


def test_candidates_depend_on_the_generator_alone() -> None:
    evaluated = SPACE.sample(12, BITS, np.random.default_rng(1))
    none = np.zeros((0, len(SPACE.groups)), dtype=np.int64)
    first, again = (propose(3, 5, evaluated, none) for _ in range(2))
    assert (np.array(first) == np.array(again)).all()


def test_a_batch_spreads_over_average_bits() -> None:
    evaluated = SPACE.sample(12, BITS, np.random.default_rng(1))
    none = np.zeros((0, len(SPACE.groups)), dtype=np.int64)
    bits = SPACE.average_bits(np.array(propose(5, 0, evaluated, none)))
    assert np.ptp(bits) > 0.5


def test_search_gains_more_hypervolume_than_random_on_average() -> None:
    gains = {"search": [], "random": []}
    for seed in range(4):
        generator = np.random.default_rng(seed)
        evaluated = SPACE.sample(12, BITS, generator)
        reference = reference_point(losses_of(evaluated), BITS)

        def volume(index: Integers, reference: tuple[float, float] = reference) -> float:
            points = np.column_stack([losses_of(index), SPACE.average_bits(index)])
            return hypervolume(points, reference)

        none = evaluated[:0]
        chosen = np.array(propose(5, seed, evaluated, none))
        random = SPACE.sample(5, BITS, generator)
        for name, more in (("search", chosen), ("random", random)):
            gains[name].append(volume(np.concatenate([evaluated, more])) - volume(evaluated))
    assert np.mean(gains["search"]) > 2 * np.mean(gains["random"])
    assert min(gains["search"]) > 0


def test_a_space_that_is_used_up_gives_no_candidate() -> None:
    space = make_space(1, INTEGER, fused=True)
    space = Space(space.layers[3:4], space.choices, space.storage_bits)
    everything = np.array(list(itertools.product(range(8))), dtype=np.int64)
    loss = 1 / space.average_bits(everything)
    surrogate = fit_surrogate(error_features(space, errors_of(space)), everything, loss)
    found = next_candidate(
        surrogate, space, everything, loss, everything[:0], everything[:0], (2.0, 9.0),
        np.random.default_rng(0),
    )  # fmt: skip
    assert found is None


def test_the_last_configuration_of_a_small_space_is_found() -> None:
    space = Space(make_space(1, INTEGER).layers[:2], INTEGER, make_space(1, INTEGER).storage_bits)
    everything = np.array(list(itertools.product(range(8), repeat=2)), dtype=np.int64)
    loss = 1 / space.average_bits(everything)
    features = error_features(space, errors_of(space))
    for missing in (0, 17, 40):
        known = np.delete(everything, missing, axis=0)
        found = next_candidate(
            fit_surrogate(features, known, np.delete(loss, missing)),
            space, known, np.delete(loss, missing), known[:0], known[:0], (2.0, 9.0),
            np.random.default_rng(0),
        )  # fmt: skip
        assert found is not None
        assert (found == everything[missing]).all()
