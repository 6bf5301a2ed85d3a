"""Local searches along finite differences, on objectives that are known."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch._arrays import Floats, Integers
from qsearch.search.local_search import best_new, local_search, moved
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.sampling import sample_configurations
from tests.engine.fake_study import INTEGER, errors_of, make_space

SPACE = make_space(2, INTEGER)
BITS = (2.5, 6.0)
ERRORS = errors_of(SPACE)
SENSITIVITY = np.random.default_rng(0).permutation(2.0 ** -np.arange(len(SPACE.groups)))


@dataclass(frozen=True)
class Known:
    """A known objective: low loss at few bits, no score below a number of bits."""

    weight: float
    least_bits: float = 0.0
    space: ConfigurationSpace = SPACE

    def __call__(self, index: Integers) -> Floats:
        loss = ERRORS[np.arange(len(SPACE.groups)), index] @ SENSITIVITY
        bits = SPACE.average_bits(index)
        return np.where(bits < self.least_bits, -np.inf, -loss - self.weight * bits)

    def moves(self, index: Integers, groups: Integers, choices: Integers) -> Floats:
        return self(moved(index, groups, choices))


NONE = np.zeros((0, len(SPACE.groups)), dtype=np.int64)


def search(
    weight: float,
    starts: Integers,
    steps: int,
    moves: int = 1024,
    exclude: Integers = NONE,
    windows: Floats | None = None,
    least_bits: float = 0.0,
) -> tuple[Integers, Floats]:
    return local_search(Known(weight, least_bits), starts, steps, moves, exclude, windows)


def sampled(count: int, seed: int, bits: tuple[float, float] = BITS) -> Integers:
    return sample_configurations(SPACE, count, bits, np.random.default_rng(seed))


def keys(index: Integers) -> list[bytes]:
    return [row.tobytes() for row in index]


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 3))
def test_returns_new_distinct_points_in_range_best_first(
    seed: int, starts: int, steps: int
) -> None:
    points = sampled(starts, seed)
    before = points.copy()
    found, values = search(0.05, points, steps)
    assert len(found) > 0
    assert len(set(keys(found))) == len(found)
    assert not set(keys(found)) & set(keys(points))
    assert ((found >= 0) & (found < SPACE.choices.size)).all()
    assert (np.diff(values) <= 0).all()
    assert values == pytest.approx(Known(0.05)(found))
    assert (points == before).all()


@pytest.mark.parametrize("moves", [1, 1024])
def test_climbs_to_the_optimum_of_an_additive_objective(moves: int) -> None:
    # The objective is a sum over groups, so its optimum is each group's own.
    singles = -SENSITIVITY[:, None] * ERRORS - 0.02 * SPACE.group_share[:, None] * SPACE.bits_table
    best = singles.argmax(axis=1)
    _, values = search(0.02, sampled(1, 0), 200, moves)
    assert values[0] == pytest.approx(float(Known(0.02)(best[None])[0]))


def test_steps_of_several_groups_climb_faster_than_steps_of_one() -> None:
    start = sampled(1, 0)
    assert search(0.02, start, 3)[1][0] > search(0.02, start, 3, moves=1)[1][0]


@pytest.mark.parametrize("moves", [1, 3])
def test_a_step_moves_no_more_groups_than_asked(moves: int) -> None:
    start = sampled(1, 0)
    found, _ = search(0.02, start, 1, moves)
    assert (found != start).sum(axis=1).max() <= moves


def test_excluded_points_are_passed_but_not_returned() -> None:
    start = sampled(1, 0)
    free, _ = search(0.02, start, 1)
    found, values = search(0.02, start, 2, exclude=free)
    assert not set(keys(found)) & set(keys(free))
    assert values[0] == search(0.02, start, 2)[1][0]


def test_each_search_stays_in_its_window_of_average_bits() -> None:
    starts = np.concatenate([sampled(1, 0, (3.0, 3.4)), sampled(1, 0, (5.0, 5.4))])
    found, _ = search(0.0, starts, 6, windows=np.array([[3.0, 3.5], [5.0, 5.5]]))
    bits = SPACE.average_bits(found)
    low, high = (bits >= 3.0) & (bits <= 3.5), (bits >= 5.0) & (bits <= 5.5)
    assert (low | high).all()
    assert low.any()
    assert high.any()


def test_points_without_a_score_are_left_out() -> None:
    found, values = search(0.1, sampled(4, 0, (2.5, 5)), 8, least_bits=4)
    assert len(found) > 0
    assert np.isfinite(values).all()
    assert (SPACE.average_bits(found) >= 4).all()


@pytest.mark.parametrize("starts", [0, 2])
def test_starts_without_a_score_find_nothing_silently(starts: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, values = search(0.1, sampled(starts, 0), 8, least_bits=99)
    assert found.shape == (0, len(SPACE.groups))
    assert values.shape == (0,)


def test_the_best_new_points_are_distinct_free_and_ordered() -> None:
    points = np.array([[1], [2], [2], [3], [4], [5]])
    values = np.array([0.0, 2.0, 2.0, 3.0, -np.inf, 1.0])
    taken = {points[3].tobytes()}
    found, scores = best_new(points, values, taken, 2)
    assert found.tolist() == [[2], [5]]
    assert scores.tolist() == [2.0, 1.0]
    everything, _ = best_new(points, values, taken, 10)
    assert everything.tolist() == [[2], [5], [1]]
    assert taken == {points[3].tobytes()}
