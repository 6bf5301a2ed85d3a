"""Differences of two models over the same examples, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

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
    if len(a) != len(b) or (weights is not None and len(weights) != len(a)):
        raise InputError(f"a paired difference is of the same examples, not {len(a)} and {len(b)}")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    own = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=np.float64)
    known = np.isfinite(differences) & (own > 0)
    differences, own = differences[known], own[known]
    count = len(differences)
    if count == 0:
        raise InputError("a paired difference needs an example with a value under both models")
    total = own.sum()
    mean = float((own * differences).sum() / total)
    if count == 1:
        return PairedDifference(mean, math.nan, math.nan, math.nan, 1)
    spread = ((own * (differences - mean)) ** 2).sum() * count / (count - 1)
    error = float(np.sqrt(spread) / total)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return PairedDifference(mean, error, mean - half, mean + half, count)


def paired_scores(a: ExampleScores, b: ExampleScores, metric: str = "loss") -> PairedDifference:
    """Return the paired difference of the loss, or of a metric of examples, such as accuracy.

    Raises:
        InputError: If the examples differ, or one of the two has no such metric of examples.
    """
    if a.weights != b.weights:
        raise InputError("the two were not scored on the same examples: their weights differ")
    if metric == "loss":
        return paired_difference(a.losses, b.losses, a.weights)
    if metric not in a.metrics or metric not in b.metrics:
        common = sorted({"loss", *(a.metrics.keys() & b.metrics.keys())})
        raise InputError(f"{metric!r} is not a value of each example; those are {common}")
    return paired_difference(a.metrics[metric], b.metrics[metric], a.weights)
