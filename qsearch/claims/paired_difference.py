"""Differences of two models over the same examples, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from qsearch._arrays import Floats
from qsearch.errors import InputError
from qsearch.plugins.evaluation import ExampleScores

CONFIDENCE = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class PairedDifference:
    """A model's mean less another's, over the same examples.

    Args:
        standard_error: Of the difference; NaN for one example.
        low, high: The ends of its 95 % interval, by Student's t.
        examples: Those that have a value under both.
    """

    difference: float
    standard_error: float
    low: float
    high: float
    examples: int

    @property
    def is_measurable(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    def widened(self, quantile: float) -> PairedDifference:
        """Return it with an interval of so many standard errors on either side."""
        half = quantile * self.standard_error
        return replace(self, low=self.difference - half, high=self.difference + half)


def paired_difference(
    a: Sequence[float], b: Sequence[float], weights: Sequence[float] | None = None
) -> PairedDifference:
    """Return the weighted mean of ``a`` less that of ``b``, of the same examples in equal order.

    What all examples share cancels, so that it is known far better than either mean. With equal
    weights it is the paired t interval; with others, such as numbers of tokens, the standard error
    is the linearised one of a ratio of sums. Examples that are NaN in either are left out.

    Raises:
        InputError: If the numbers of examples differ, or no example has a value under both.

    >>> paired_difference([1.0, 2.0, 4.0], [1.0, 1.0, 2.0]).difference
    1.0
    """
    mean, total, deviations, count = _weighted(a, b, weights)
    if count == 1:
        return PairedDifference(mean, math.nan, math.nan, math.nan, 1)
    spread = (deviations**2).sum() * count / (count - 1)
    error = float(np.sqrt(spread) / total)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return PairedDifference(mean, error, mean - half, mean + half, count)


def paired_scores(a: ExampleScores, b: ExampleScores, metric: str = "loss") -> PairedDifference:
    """Return the paired difference of the loss, or of a metric of examples, such as accuracy.

    Raises:
        InputError: If the examples differ, or one of the two has no such metric of examples.
    """
    return paired_difference(*_values(a, b, metric))


def paired_deviations(
    a: ExampleScores, b: ExampleScores, metric: str = "loss"
) -> tuple[Floats, int]:
    """Return how far each example's difference is from their mean, times its weight.

    It is 0 where an example has no value under both; those that have are counted. Errors are as for
    :func:`paired_scores`.
    """
    _, _, deviations, count = _weighted(*_values(a, b, metric))
    return deviations, count


def _values(
    a: ExampleScores, b: ExampleScores, metric: str
) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    """Return the examples' values under either, and their weights."""
    if a.weights != b.weights:
        raise InputError("the two were not scored on the same examples: their weights differ")
    if metric == "loss":
        return a.losses, b.losses, a.weights
    if metric not in a.metrics or metric not in b.metrics:
        common = sorted({"loss", *(a.metrics.keys() & b.metrics.keys())})
        raise InputError(f"{metric!r} is not a value of each example; those are {common}")
    return a.metrics[metric], b.metrics[metric], a.weights


def _weighted(
    a: Sequence[float], b: Sequence[float], weights: Sequence[float] | None
) -> tuple[float, float, Floats, int]:
    """Return the mean difference, the sum of weights, weighted deviations, and their number."""
    if len(a) != len(b) or (weights is not None and len(weights) != len(a)):
        raise InputError(f"a paired difference is of the same examples, not {len(a)} and {len(b)}")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    own = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=np.float64)
    known = np.isfinite(differences) & (own > 0)
    count = int(known.sum())
    if count == 0:
        raise InputError("a paired difference needs an example with a value under both models")
    total = float(own[known].sum())
    mean = float((own[known] * differences[known]).sum() / total)
    deviations = np.zeros(len(a))
    deviations[known] = own[known] * (differences[known] - mean)
    return mean, total, deviations, count
