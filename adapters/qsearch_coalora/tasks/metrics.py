"""Means and metrics over examples, with their standard errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor) -> tuple[float, float]:
    """Return the weighted mean of examples' values and its standard error, NaN for one example.

    The standard error is the linearised one of a ratio of sums.
    """
    values, weights = values.double(), weights.double()
    count, total = len(values), weights.sum()
    mean = (values * weights).sum() / total
    spread = (weights * (values - mean)).square().sum() * count / (count - 1 or float("nan"))
    return mean.item(), (spread.sqrt() / total).item()


def upper_percentile(values: Tensor, share: float) -> float:
    """Return the value that a share of others is at most, without a limit on their number."""
    rank = max(int(-(-share * len(values) // 1)), 1)
    return values.kthvalue(rank).values.item()


def accuracy(right: Tensor) -> tuple[float, float]:
    """Return accuracy and its binomial standard error, of 1 or 0 for each example (n)."""
    share = right.double().mean().item()
    return share, (share * (1 - share) / len(right)) ** 0.5


def confusion(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return each example's cell of the table of two labels (n): 2 · predicted + label.

    Both say for each example (n) whether it is label 1, as 0 or 1.
    """
    return 2 * predicted.float() + labels.float()


def f1_score(cells: Tensor) -> tuple[float, float]:
    """Return the F1 score of label 1 in the table of :func:`confusion`, and its standard error.

    F1 = 2 TP / (2 TP + FP + FN), 0 where all of these are 0; its error is by the delta method, with
    multinomial counts.
    """
    count = len(cells)
    true, false, missed = (float((cells == cell).sum()) / count for cell in (3, 2, 1))
    total = 2 * true + false + missed
    if total == 0:
        return 0.0, 0.0
    of_true, of_wrong = 2 * (false + missed) / total**2, -2 * true / total**2
    second = true * of_true**2 + (false + missed) * of_wrong**2
    first = true * of_true + (false + missed) * of_wrong
    return 2 * true / total, (max(second - first**2, 0.0) / count) ** 0.5
