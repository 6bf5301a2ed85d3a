"""How wide intervals of several paired differences must be for all of them to hold at once.

A claim names one of many configurations because of its own interval, so intervals that hold one by
one are too narrow for it (decision 97).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from qsearch._arrays import Floats
from qsearch.claims.paired_difference import CONFIDENCE, paired_deviations
from qsearch.plugins.evaluation import ExampleScores

_DRAWS = 10_000
"""The achieved confidence is mostly within two tenths of a per cent of the one asked for."""

_RIDGE = 1e-6
"""Added to correlations, so that equal configurations can be drawn."""


def joint_quantile(
    models: Sequence[ExampleScores], other: ExampleScores, metric: str = "loss"
) -> float:
    """Return of how many standard errors on either side 95 % intervals hold for all models at once.

    The intervals are of the models' differences from the other one. The probability that any of
    the differences is above its interval is 2.5 %, so whichever is looked at, and why, does not
    matter. It is the quantile of the greatest of their errors, of a multivariate t distribution
    with their correlation over the examples. It is 0 if all are equal to the other one.
    """
    columns, counts = [], []
    for model in models:
        deviations, count = paired_deviations(model, other, metric)
        size = float(np.linalg.norm(deviations))
        if count > 1 and size > 0:  # Else it equals the other on each example.
            columns.append(deviations / size)
            counts.append(count)
    if not columns:
        return 0.0
    level, degrees = (1 + CONFIDENCE) / 2, min(counts) - 1
    alone = float(stats.t.ppf(level, degrees))
    if len(columns) == 1:
        return alone
    return max(alone, _greatest(np.column_stack(columns), degrees, level))


def _greatest(columns: Floats, degrees: int, level: float) -> float:
    """Return a quantile of the greatest of correlated t values; columns have norm 1."""
    count = columns.shape[1]
    # Its factor is unique, so that draws do not depend on the library of linear algebra.
    factor = np.linalg.cholesky(columns.T @ columns + _RIDGE * np.eye(count))
    generator = np.random.default_rng(0)
    greatest = (generator.standard_normal((_DRAWS, count)) @ factor.T).max(axis=1)
    scales = np.sqrt(generator.chisquare(degrees, _DRAWS) / degrees)
    return float(np.quantile(greatest / scales, level))
