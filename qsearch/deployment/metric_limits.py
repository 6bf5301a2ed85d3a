"""Limits of metrics that a picked configuration must keep, such as ``--max kl=0.05``."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from qsearch.deployment.budgets import Budget, best_within
from qsearch.deployment.predicted_speed import SPEED_OPTION, fast_enough
from qsearch.deployment.selection import best_among, completed_rows
from qsearch.errors import InputError
from qsearch.storage.study_record import StudyRecord, selection_loss


@dataclass(frozen=True)
class MetricLimit:
    """The greatest or the least value of a metric, or of the loss, as it was observed.

    Args:
        prefix: As that of :class:`~qsearch.deployment.budgets.Budget`.
    """

    metric: str
    side: Literal["max", "min"]
    value: float
    prefix: str = "--"

    def __str__(self) -> str:
        """Return it as the user gave it, such as ``--max kl=0.05``."""
        return f"{self.prefix}{self.side} {self.metric}={self.value:g}"

    def holds(self, values: pd.Series) -> pd.Series:
        """Return which values keep it; what is not known does not."""
        compare = operator.le if self.side == "max" else operator.ge
        kept: pd.Series = compare(values.astype(float), self.value)
        return kept


def parse_limits(
    maxima: Sequence[str],
    minima: Sequence[str],
    max_kl: float | None = None,
    min_accuracy: float | None = None,
) -> tuple[MetricLimit, ...]:
    """Return the limits of a command's options, each such as ``kl=0.05``."""
    limits = [_parsed(text, "max") for text in maxima] + [_parsed(text, "min") for text in minima]
    if max_kl is not None:
        limits.append(_limit("kl", "max", max_kl, "--max-kl"))
    if min_accuracy is not None:
        limits.append(_limit("accuracy", "min", min_accuracy, "--min-accuracy"))
    sides = [(limit.metric, limit.side) for limit in limits]
    for limit, side in zip(limits, sides, strict=True):
        if sides.count(side) > 1:
            raise InputError(f"--{limit.side} of {limit.metric}: give it once")
    return tuple(limits)


def _parsed(text: str, side: Literal["max", "min"]) -> MetricLimit:
    name, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name:
        value = math.nan
    return _limit(name.strip(), side, value, f"--{side} {text!r}")


def _limit(metric: str, side: Literal["max", "min"], value: float, option: str) -> MetricLimit:
    if not math.isfinite(value):
        raise InputError(f"{option}: give a metric and a number, such as --{side} perplexity=20")
    return MetricLimit(metric, side, value)


def best_with_limits(
    record: StudyRecord,
    directory: Path,
    budget: Budget | None,
    limits: Sequence[MetricLimit],
    tokens_per_second: float | None = None,
) -> pd.Series:
    """Return the best row of the last finished round within a budget that keeps some limits.

    Without a budget it is the one of fewest average bits, of equal ones that of least
    :func:`selection_loss`. Rows that are predicted to generate fewer tokens a second are left out;
    without a budget and limits, it is the best of the others.

    Raises:
        InputError: If the study has no such metric, or no configuration fits.
    """
    others = [str(limit) for limit in limits]
    if tokens_per_second is not None:
        others.append(f"{SPEED_OPTION} {tokens_per_second:g}")
    if budget is not None and budget.kind == "trial" and others:
        raise InputError(f"{budget} is a configuration already; leave {others[0]} out")
    if tokens_per_second is not None:
        record = fast_enough(record, directory, tokens_per_second)
    if not limits:
        if budget is None and tokens_per_second is None:
            raise InputError("give a budget, or the limit of a metric")
        if budget is None:
            return best_among(record.trials, record.objective)
        return best_within(record, directory, budget)
    kept = keeping(record, limits)
    if budget is None:
        by = kept.trials.assign(selection=selection_loss(kept.trials, record.objective))
        return by.sort_values(["average_bits", "selection"]).drop(columns="selection").iloc[0]
    try:
        return best_within(kept, directory, budget)
    except InputError as error:
        raise InputError(f"{error}; of those that keep {_all(limits)}") from error


def keeping(record: StudyRecord, limits: Sequence[MetricLimit]) -> StudyRecord:
    """Return a record with those of its latest rows that keep limits; InputError if none does."""
    rows = completed_rows(record)
    for limit in limits:
        names = ["loss", *record.metric_names]
        if limit.metric not in names:
            raise InputError(f"{limit}: the study has no metric {limit.metric!r}; it has {names}")
        values = record.latest[limit.metric].astype(float)
        if values.isna().all():
            raise InputError(f"{limit}: {limit.metric} is not known of any configuration")
        if not limit.holds(values).any():
            ordered = record.latest.sort_values(limit.metric, ascending=limit.side == "max")
            row, extreme = ordered.iloc[0], "least" if limit.side == "max" else "greatest"
            raise InputError(
                f"{limit}: the {extreme} {limit.metric} of the last finished round is"
                f" {row[limit.metric]:.4g}, of trial {int(row['trial'])} with"
                f" {row['average_bits']:.4f} average bits"
            )
        rows = rows[limit.holds(rows[limit.metric])]
    if rows.empty:
        raise InputError(f"no configuration keeps {_all(limits)} at once, though some keep each")
    return replace(record, trials=rows)


def _all(limits: Sequence[MetricLimit]) -> str:
    return " and ".join(map(str, limits))
