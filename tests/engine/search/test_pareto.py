"""Dominance, fronts, hypervolume and the segmented filter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from botorch.utils.multi_objective.hypervolume import Hypervolume
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymoo.indicators.hv import HV

from qsearch.errors import InputError
from qsearch.search.pareto import (
    front,
    hypervolume,
    non_dominated,
    normalised_hypervolume,
    segment_edges,
    segment_of,
    segmented_front,
)

# Small integers make ties, copies and dominated points common.
TIED = st.integers(0, 30).flatmap(
    lambda n: arrays(np.float64, (n, 2), elements=st.integers(0, 6).map(float))
)
SPREAD = st.integers(0, 30).flatmap(
    lambda n: arrays(np.float64, (n, 2), elements=st.floats(0, 10, allow_subnormal=False))
)
POINTS = TIED | SPREAD
FEW = settings(max_examples=40)
EDGES = segment_edges((1.0, 5.0), 4)


def dominates(first: np.ndarray, second: np.ndarray) -> bool:
    return bool((first <= second).all() and (first < second).any())


@FEW
@given(POINTS)
def test_non_dominated_is_the_definition(points: np.ndarray) -> None:
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert non_dominated(points).tolist() == expected


@FEW
@given(POINTS)
def test_front_falls_in_loss_as_bits_rise(points: np.ndarray) -> None:
    kept = front(points)
    assert (np.diff(kept[:, 1]) > 0).all()
    assert (np.diff(kept[:, 0]) < 0).all()
    assert len(kept) >= min(len(points), 1)
    assert all((kept <= point).all(axis=1).any() for point in points)


def test_points_that_are_not_below_the_reference_add_nothing() -> None:
    points = np.array([[4.0, 1.0], [1.0, 4.0], [5.0, 5.0]])
    assert hypervolume(points, (4, 4)) == 0.0
    assert hypervolume(np.zeros((0, 2)), (4, 4)) == 0.0


@FEW
@given(POINTS)
def test_hypervolume_equals_botorch_and_pymoo(points: np.ndarray) -> None:
    reference = np.array([7.5, 6.5])
    mine = hypervolume(points, reference)
    assert float(HV(ref_point=reference)(points)) == pytest.approx(mine, rel=1e-9, abs=1e-12)
    # BoTorch maximises, and counts only points on the front.
    theirs = Hypervolume(ref_point=torch.from_numpy(-reference)).compute(
        torch.from_numpy(-front(points)).reshape(-1, 2)
    )
    assert theirs == pytest.approx(mine, rel=1e-9, abs=1e-12)


@FEW
@given(POINTS)
def test_normalised_hypervolume_is_a_share_of_the_box(points: np.ndarray) -> None:
    share = normalised_hypervolume(points, (11, 12), (0, 0))
    assert 0 <= share <= 1 + 1e-12
    assert share == pytest.approx(hypervolume(points, (11, 12)) / 132)


@FEW
@given(POINTS)
def test_segmented_front_is_each_segments_own_front(points: np.ndarray) -> None:
    kept = segmented_front(points, EDGES)
    segment = segment_of(points[:, 1], EDGES)
    for position, point in enumerate(points):
        rivals = points[segment == segment[position]]
        assert kept[position] == (not any(dominates(rival, point) for rival in rivals))
    assert set(segment[kept]) == set(segment)


def test_segments_are_closed_on_the_left_and_the_last_on_both_sides() -> None:
    values = np.array([0.0, 1.0, 1.9, 2.0, 4.9, 5.0, 9.0])
    assert segment_of(values, EDGES).tolist() == [0, 0, 0, 1, 3, 3, 3]


ONE_POINT = np.zeros((1, 2))


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda: segment_edges((1, 5), 0), "cannot divide"),
        (lambda: segment_edges((5, 5), 3), "cannot divide"),
        (lambda: non_dominated(np.zeros(3)), "points must"),
        (lambda: segmented_front(np.zeros((2, 3)), EDGES), "points must"),
        (lambda: hypervolume(np.array([[np.nan, 1.0]]), (1, 1)), "points must"),
        (lambda: hypervolume(ONE_POINT, (1.0,)), "two finite numbers"),
        (lambda: hypervolume(ONE_POINT, (1.0, np.inf)), "two finite numbers"),
        (lambda: normalised_hypervolume(ONE_POINT, (1, 1), (0, 1)), "must be below reference"),
    ],
)
def test_impossible_points_and_segments_are_refused(use: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        use()
