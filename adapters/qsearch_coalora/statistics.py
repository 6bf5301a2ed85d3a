"""Means and their standard errors."""

from __future__ import annotations

from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor) -> tuple[float, float]:
    """Return a weighted mean and its standard error.

    Args:
        values: One value an example (n).
        weights: Their weights (n).

    Returns:
        The mean, and the linearised standard error of a ratio of sums; NaN for one example.
    """
    values, weights = values.double(), weights.double()
    count, total = len(values), weights.sum()
    mean = (values * weights).sum() / total
    spread = (weights * (values - mean)).square().sum() * count / (count - 1 or float("nan"))
    return mean.item(), (spread.sqrt() / total).item()
