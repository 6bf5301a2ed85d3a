"""Means and metrics over examples, with their standard errors."""

from __future__ import annotations

from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor) -> tuple[float, float]:
    """Return a weighted mean and its standard error.

    There is one value and one weight for each example (n).

    Returns:
        The mean, and the linearised standard error of a ratio of sums; NaN for one example.
    """
    values, weights = values.double(), weights.double()
    count, total = len(values), weights.sum()
    mean = (values * weights).sum() / total
    spread = (weights * (values - mean)).square().sum() * count / (count - 1 or float("nan"))
    return mean.item(), (spread.sqrt() / total).item()


def hits(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return 1 where a prediction is right, else 0 (n)."""
    return (predicted == labels).float()


def accuracy(right: Tensor) -> tuple[float, float]:
    """Return accuracy and its binomial standard error.

    It is of what :func:`hits` returns (n).
    """
    share = right.double().mean().item()
    return share, (share * (1 - share) / len(right)) ** 0.5


def confusion(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return each example's cell of the table of two labels (n): 2 · predicted + label.

    Both say for each example (n) whether it is label 1, as 0 or 1.
    """
    return 2 * predicted.float() + labels.float()


def f1_score(cells: Tensor) -> tuple[float, float]:
    """Return the F1 score of label 1 and its standard error by the delta method.

    F1 = 2 TP / (2 TP + FP + FN), with multinomial counts; 0 where there is no TP, FP or FN.

    It is of what :func:`confusion` returns (n).
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
