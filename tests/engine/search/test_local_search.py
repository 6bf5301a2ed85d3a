"""Walks along finite differences, on objectives that are known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch._arrays import Floats, Integers
from qsearch.search.local_search import Score, best_new, local_search, moved
from qsearch.space.sampling import sample_configurations
from tests.engine.support import INTEGER, errors_of, make_space

SPACE = make_space(2, INTEGER)
BITS = (2.5, 6.0)
ERRORS = errors_of(SPACE)
SENSITIVITY = np.random.default_rng(0).permutation(2.0 ** -np.arange(len(SPACE.groups)))
SHARE = SPACE.group_parameters / SPACE.group_parameters.sum()
MOVES = 1024


def score_at(weight: float) -> Score:
    """A known objective: low loss at few bits."""

    def score(index: Integers) -> Floats:
        loss = ERRORS[np.arange(len(SPACE.groups)), index] @ SENSITIVITY
        return np.asarray(-loss - weight * SPACE.average_bits(index))

    return score


def sampled(count: int, seed: int, bits: tuple[float, float] = BITS) -> Integers:
    return sample_configurations(SPACE, count, bits, np.random.default_rng(seed))


def keys(index: Integers) -> list[bytes]:
    return [row.tobytes() for row in index]


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 4))
def test_returns_new_distinct_points_in_range_best_first(
    seed: int, starts: int, steps: int
) -> None:
    points = sampled(starts, seed)
    before = points.copy()
    found, values = local_search(score_at(0.05), SPACE, points, steps, MOVES)
    assert len(found) > 0
    assert len(set(keys(found))) == len(found)
    assert not set(keys(found)) & set(keys(points))
    assert ((found >= 0) & (found < SPACE.choices.size)).all()
    assert (np.diff(values) <= 0).all()
    assert values == pytest.approx(score_at(0.05)(found))
    assert (points == before).all()


@pytest.mark.parametrize("moves", [1, MOVES])
def test_climbs_to_the_optimum_of_an_additive_objective(moves: int) -> None:
    score = score_at(0.02)
    # The objective is a sum over groups, so its optimum is each group's own.
    singles = -SENSITIVITY[:, None] * ERRORS - 0.02 * SHARE[:, None] * SPACE.bits_table
    best = singles.argmax(axis=1)
    _, values = local_search(score, SPACE, sampled(3, 0), 200, moves)
    assert values[0] == pytest.approx(float(score(best[None])[0]))


def test_steps_of_several_groups_climb_faster_than_steps_of_one() -> None:
    start = sampled(1, 0)
    _, one = local_search(score_at(0.02), SPACE, start, 3, 1)
    _, several = local_search(score_at(0.02), SPACE, start, 3, MOVES)
    assert several[0] > one[0]


@pytest.mark.parametrize("moves", [1, 3])
def test_a_step_moves_no_more_groups_than_asked(moves: int) -> None:
    start = sampled(1, 0)
    found, _ = local_search(score_at(0.02), SPACE, start, 1, moves)
    assert (found != start).sum(axis=1).max() <= moves


def test_excluded_points_are_walked_over_but_not_returned() -> None:
    start = sampled(1, 0)
    free, _ = local_search(score_at(0.02), SPACE, start, 1, MOVES)
    found, values = local_search(score_at(0.02), SPACE, start, 2, MOVES, exclude=free)
    _, further = local_search(score_at(0.02), SPACE, start, 2, MOVES)
    assert not set(keys(found)) & set(keys(free))
    assert values[0] == further[0]


def test_each_walk_stays_in_its_window_of_average_bits() -> None:
    starts = np.concatenate([sampled(1, 0, (3.0, 3.4)), sampled(1, 0, (5.0, 5.4))])
    windows = np.array([[3.0, 3.5], [5.0, 5.5]])
    found, _ = local_search(score_at(0.0), SPACE, starts, 6, MOVES, windows=windows)
    bits = SPACE.average_bits(found)
    low, high = (bits >= 3.0) & (bits <= 3.5), (bits >= 5.0) & (bits <= 5.5)
    assert (low | high).all()
    assert low.any()
    assert high.any()


def test_a_score_of_moves_walks_the_same_way() -> None:
    score, starts = score_at(0.02), sampled(3, 0)
    asked = []

    def of_moves(index: Integers, groups: Integers, choices: Integers) -> Floats:
        asked.append(len(groups))
        return score(moved(index, groups, choices))

    plain = local_search(score, SPACE, starts, 3, MOVES)
    faster = local_search(score, SPACE, starts, 3, MOVES, move_score=of_moves)
    assert asked
    for one, other in zip(plain, faster, strict=True):
        assert np.array_equal(one, other)


def test_a_walk_from_an_optimum_still_looks_at_its_neighbours() -> None:
    low = np.full((1, len(SPACE.groups)), int(SPACE.bits_table.argmin()), dtype=np.int64)
    found, _ = local_search(lambda i: -SPACE.average_bits(i), SPACE, low, 8, MOVES)
    assert len(found) > 0
    assert low.tobytes() not in keys(found)


def test_points_without_a_score_are_left_out() -> None:
    def score(index: Integers) -> Floats:
        return np.where(SPACE.average_bits(index) < 4, -np.inf, score_at(0.1)(index))

    found, values = local_search(score, SPACE, sampled(4, 0, (2.5, 5)), 8, MOVES)
    assert len(found) > 0
    assert np.isfinite(values).all()
    assert (SPACE.average_bits(found) >= 4).all()


def test_starts_without_a_score_are_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = local_search(
            lambda index: np.full(len(index), -np.inf), SPACE, sampled(2, 0), 8, MOVES
        )
    assert len(found) == 0


def test_no_starts_find_nothing() -> None:
    found, values = local_search(score_at(0.1), SPACE, sampled(0, 0), 8, MOVES)
    assert found.shape == (0, len(SPACE.groups))
    assert values.shape == (0,)


def test_moves_change_one_group_each() -> None:
    index = np.array([5, 6, 7])
    changed = moved(index, np.array([0, 2, 2]), np.array([1, 2, 3]))
    assert changed.tolist() == [[1, 6, 7], [5, 6, 2], [5, 6, 3]]
    assert index.tolist() == [5, 6, 7]


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
