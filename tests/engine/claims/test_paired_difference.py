"""Paired differences: the t interval over equal examples, and its weighted form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qsearch.claims.paired_difference import PairedDifference, paired_difference, paired_scores
from qsearch.errors import InputError
from qsearch.plugins.evaluation import ExampleScores

VALUES = st.floats(-100, 100)
PAIRS = st.lists(st.tuples(VALUES, VALUES, st.floats(0.5, 100)), min_size=2, max_size=30)


def test_it_is_the_paired_t_interval_of_scipy() -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(1.0, 1.0, 40)
    b = a + draw.normal(0.1, 0.3, 40)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    actual = paired_difference(a.tolist(), b.tolist())
    assert (actual.low, actual.high) == pytest.approx((interval.low, interval.high))
    assert actual.difference / actual.standard_error == pytest.approx(expected.statistic)
    assert actual.examples == 40
    assert actual.is_measurable == (expected.pvalue < 0.05)


def test_weights_are_those_of_the_mean() -> None:
    """An example of weight 2 counts in the mean as two of weight 1."""
    weighted = paired_difference([3.0, 0.0], [0.0, 0.0], [2.0, 1.0])
    assert weighted.difference == pytest.approx(2.0)
    # The linearised error: sqrt(2/1 * ((2*1)^2 + (1*2)^2)) / 3.
    assert weighted.standard_error == pytest.approx(4 / 3)


@given(PAIRS)
def test_it_is_antisymmetric_and_scale_of_weights_does_not_matter(
    rows: list[tuple[float, float, float]],
) -> None:
    a, b, weights = map(list, zip(*rows, strict=True))
    forth, back = paired_difference(a, b, weights), paired_difference(b, a, weights)
    assert back.difference == pytest.approx(-forth.difference, abs=1e-9)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-9)
    assert forth.low <= forth.difference <= forth.high
    scaled = paired_difference(a, b, [3 * weight for weight in weights])
    assert scaled.standard_error == pytest.approx(forth.standard_error, abs=1e-9)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=30), st.floats(0.5, 9))
def test_equal_weights_give_the_plain_interval(
    rows: list[tuple[float, float]], weight: float
) -> None:
    a, b = map(list, zip(*rows, strict=True))
    differences = np.subtract(a, b)
    error = float(differences.std(ddof=1)) / math.sqrt(len(a))
    actual = paired_difference(a, b, [weight] * len(a))
    assert actual.difference == pytest.approx(float(differences.mean()), abs=1e-9)
    assert actual.standard_error == pytest.approx(error, abs=1e-9)


def test_one_example_says_nothing_of_its_error() -> None:
    one = paired_difference([2.0], [0.5])
    assert (one.difference, one.examples, one.is_measurable) == (1.5, 1, False)
    assert math.isnan(one.standard_error)


def test_examples_without_a_value_are_left_out() -> None:
    nan = math.nan
    whole = paired_difference([1.0, nan, 3.0, 4.0], [0.0, 0.0, 0.0, nan])
    assert whole == paired_difference([1.0, 3.0], [0.0, 0.0])
    with pytest.raises(InputError, match="needs an example with a value under both"):
        paired_difference([nan], [1.0])


def test_scores_differ_by_loss_or_by_a_metric_of_examples() -> None:
    one = ExampleScores((1.0, 2.0, 3.0), (2.0, 1.0, 1.0), {"accuracy": (1.0, 0.0, 1.0)})
    two = ExampleScores((0.5, 1.0, 1.0), (2.0, 1.0, 1.0), {"accuracy": (1.0, 1.0, 1.0)})
    assert paired_scores(one, two).difference == pytest.approx(1.0)
    assert paired_scores(one, two, "accuracy").difference == pytest.approx(-0.25)
    assert isinstance(paired_scores(one, two), PairedDifference)
    with pytest.raises(InputError, match=r"'kl_p99' is not a value .* \['accuracy', 'loss'\]"):
        paired_scores(one, two, "kl_p99")
    with pytest.raises(InputError, match="not scored on the same examples"):
        paired_scores(one, ExampleScores((1.0, 2.0, 3.0), (1.0, 1.0, 1.0)))
    with pytest.raises(InputError, match="of the same examples, not 1 and 2"):
        paired_difference([1.0], [1.0, 2.0])
