"""Intervals that hold for several configurations at once, and what chosen ones may be off by."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from qsearch._arrays import Floats
from qsearch.claims.claims import first_within
from qsearch.claims.comparison import JointDifference
from qsearch.claims.joint_interval import joint_quantile
from qsearch.claims.paired_difference import paired_scores
from qsearch.plugins.evaluation import ExampleScores

EXAMPLES = 100
ERROR = EXAMPLES**-0.5
"""Standard error of each configuration's difference."""

FULL = ExampleScores((0.0,) * EXAMPLES, (1.0,) * EXAMPLES)
"""Losses of full precision, less themselves."""


def models(losses: Floats, generator: np.random.Generator, shared: float) -> list[ExampleScores]:
    """Return examples' differences from full precision, of which all share a part of the noise."""
    noise = generator.normal(size=(EXAMPLES, len(losses)))
    common = generator.normal(size=(EXAMPLES, 1))
    columns = losses + math.sqrt(shared) * common + math.sqrt(1 - shared) * noise
    return [ExampleScores(tuple(column.tolist()), FULL.weights) for column in columns.T]


def missed(losses: Floats, limit: float | None, studies: int) -> tuple[float, float]:
    """Return how often the claimed loss is above its interval, the joint one and that alone.

    Claims are of the smallest configuration; losses are the true ones by rising size.
    """
    generator = np.random.default_rng(0)
    jointly = alone = 0
    for _ in range(studies):
        scores = models(losses, generator, 0.3)
        differences = [paired_scores(one, FULL) for one in scores]
        quantile = joint_quantile(scores, FULL)
        compared = [
            JointDifference(place, one, one.widened(quantile))
            for place, one in enumerate(differences)
        ]
        if (claim := first_within(compared, limit)) is not None:
            jointly += losses[claim.trial] > claim.jointly.high
        unaware = [JointDifference(one.trial, one.alone, one.alone) for one in compared]
        if (claim := first_within(unaware, limit)) is not None:
            alone += losses[claim.trial] > claim.alone.high
    return jointly / studies, alone / studies


@pytest.mark.parametrize(
    ("losses", "limit"),
    [
        (np.linspace(8, 0, 20) * ERROR, None),
        (np.full(20, 2.51) * ERROR, 2.5 * ERROR),
    ],
    ids=["no measurable loss", "within a limit"],
)
def test_a_claim_is_off_no_more_often_than_it_says(losses: Floats, limit: float | None) -> None:
    studies, nominal = 300, 0.025
    jointly, alone = missed(losses, limit, studies)
    error = math.sqrt(nominal * (1 - nominal) / studies)
    assert jointly <= nominal + 2 * error
    assert alone > nominal + 3 * error  # What an interval of the chosen one alone would do.


def test_the_joint_quantile_of_one_model_is_students_t() -> None:
    (one,) = models(np.zeros(1), np.random.default_rng(1), 0)
    expected = pytest.approx(stats.t.ppf(0.975, EXAMPLES - 1))
    assert joint_quantile([one], FULL) == expected
    # Models that are equal, to each other or to full precision, are no further ones.
    assert joint_quantile([one, FULL], FULL) == expected
    assert joint_quantile([one] * 9, FULL) == pytest.approx(expected.expected, rel=0.02)
    assert joint_quantile([FULL], FULL) == 0


@pytest.mark.parametrize("count", [4, 40])
def test_the_joint_quantile_of_independent_models_is_sidaks(count: int) -> None:
    scores = models(np.zeros(count), np.random.default_rng(2), 0)
    expected = stats.t.ppf(0.975 ** (1 / count), EXAMPLES - 1)
    assert joint_quantile(scores, FULL) == pytest.approx(expected, rel=0.02)


def test_the_joint_quantile_is_the_same_each_time() -> None:
    scores = models(np.zeros(9), np.random.default_rng(3), 0.5)
    assert joint_quantile(scores, FULL) == joint_quantile(scores, FULL)
