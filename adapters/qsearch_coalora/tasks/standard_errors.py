"""Means and their standard errors."""

from __future__ import annotations

from torch import Tensor

from qsearch.errors import InputError

MIN_EXAMPLES = 2
"""Examples that a standard error needs."""


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


def require_examples(split: str, count: int, unit: str) -> None:
    """Check that an evaluation split has examples enough for a standard error.

    Args:
        split: The split's name, for the message.
        count: How many examples it has.
        unit: What the task calls an example, in the plural.

    Raises:
        InputError: If it has too few.
    """
    if count < MIN_EXAMPLES:
        raise InputError(
            f"the {split} data has {count} {unit}; an evaluation needs at least {MIN_EXAMPLES}"
            " for its standard error"
        )
