"""Evaluations, Pareto fronts and failures of a study."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from qsearch.plugins.evaluation import Metric
from qsearch.plugins.trial_columns import metric_columns
from qsearch.spec.sections import OBJECTIVE
from qsearch.storage.study_record import StudyRecord, selection_loss
from qsearch_reports.frames.layers import choice_indices

_Made = TypeVar("_Made", pd.DataFrame, npt.NDArray[np.int64])

POINT_COLUMNS = (
    *("trial", "round", "method", "average_bits", "bytes", "loss", "standard_error"),
    *(
        "estimated_loss",
        "estimated_loss_std",
        "selection_loss",
        "metric",
        "metric_standard_error",
        "seconds",
        "seen",
    ),
    *("segment", "on_front", "latest", "predicted_loss", "predicted_loss_std", "configuration"),
)
"""Columns of :func:`points_frame`; those of :func:`more_metrics` follow.

``metric`` is the main metric.
"""

_VALUES = [
    *("average_bits", "bytes", "loss", "standard_error", "estimated_loss", "estimated_loss_std"),
    *("seconds", "predicted_loss", "predicted_loss_std"),
]


def _once(make: Callable[[StudyRecord], _Made]) -> Callable[[StudyRecord], _Made]:
    """Decorate a function that is called once for each record; callers get copies."""
    made: dict[int, _Made] = {}

    @functools.wraps(make)
    def get(record: StudyRecord) -> _Made:
        key = id(record)
        if key not in made:
            made[key] = make(record)
            weakref.finalize(record, made.pop, key, None)
        return made[key].copy()

    return get


def loss_unit(record: StudyRecord) -> str:
    """Return the unit of a study's losses; "" if it is not known, as of an objective.

    Where the search lowers a metric, reports show that as the loss, and the unit says so.
    """
    if record.objective != "loss":
        return f"nats of {record.objective}"
    return "" if record.task == OBJECTIVE else "nats"


def seen_in_training(record: StudyRecord, seen: pd.Series) -> pd.Series:
    """Return which configurations were seen in training; all missing if nothing is trained."""
    if record.is_trained:
        return seen.astype(bool)
    return pd.Series(None, index=seen.index, dtype=object)


def _completed_trials(record: StudyRecord) -> pd.DataFrame:
    """Return the rows of the trial table that :func:`points_frame` has, numbered as there."""
    completed = record.trials[record.trials["status"] == "completed"]
    return completed.sort_values(["round", "trial"], kind="stable").reset_index(drop=True)


@_once
def points_frame(record: StudyRecord) -> pd.DataFrame:
    """Return every completed evaluation, one row each, numbered from 0 by round and trial.

    A value that is not finite is not known: NaN. Estimated losses are not known until a round ends,
    nor in a study that does not model sampling noise. ``seen`` is missing where nothing is trained,
    and the metric in a study without one. Only the rows marked ``latest`` are under one
    adapter, and comparable with each other: those of the last finished round, or of the first while
    it runs.
    """
    ordered = _completed_trials(record)
    shown = with_objective(record, ordered)
    values = pd.concat([shown[_VALUES], metric_values(record, ordered)], axis="columns")
    values = values.astype(float)
    values = values.where(np.isfinite(values))
    points = pd.DataFrame(
        {
            **{name: ordered[name].astype(int) for name in ("trial", "round", "segment")},
            "seen": seen_in_training(record, ordered["seen"]),
            "on_front": ordered["on_front"].astype(bool),
            "method": ordered["method"].astype(str),
            **{str(name): values[name] for name in values},
            "selection_loss": selection_loss(values),
            "configuration": pd.factorize(ordered["configuration"])[0].astype(int),
        }
    )
    points["latest"] = points["round"] == (record.rounds[-1].round if record.rounds else 1)
    return points[[*POINT_COLUMNS, *metric_columns(list(more_metrics(record)))]]


def more_metrics(record: StudyRecord) -> dict[str, Metric]:
    """Return the metrics after the main one by their columns: ``metric_2``, and so on.

    A metric may be called as a column of :func:`points_frame` is.
    """
    metrics = [*record.metrics[1:]]
    if record.objective != "loss":
        metrics.append(Metric("loss", "lower"))
    return {f"metric_{place}": metric for place, metric in enumerate(metrics, start=2)}


def with_objective(record: StudyRecord, trials: pd.DataFrame) -> pd.DataFrame:
    """Return trial rows with what the search lowers as their loss."""
    if record.objective == "loss":
        return trials
    value, error = metric_columns([record.objective])
    return trials.assign(loss=trials[value], standard_error=trials[error])


def metric_values(record: StudyRecord, trials: pd.DataFrame) -> pd.DataFrame:
    """Return the metrics of trial rows, by their columns in :func:`points_frame`."""
    columns = metric_columns(["metric", *more_metrics(record)])
    if not record.metrics:
        return pd.DataFrame(math.nan, index=trials.index, columns=list(columns))
    names = metric_columns(record.metric_names)
    if record.objective != "loss":
        names += ("loss", "standard_error")
    return trials[list(names)].set_axis(list(columns), axis="columns")


@_once
def row_choices(record: StudyRecord) -> npt.NDArray[np.int64]:
    """Return the choice index of each layer in each row of :func:`points_frame` (rows × layers)."""
    texts = _completed_trials(record)["configuration"].astype(str)
    codes, distinct = pd.factorize(texts)
    return choice_indices(record.layers, record.choices, list(distinct))[codes]


def latest_points(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the last finished round, keeping their row numbers."""
    return points[points["latest"]]


def latest_front(record: StudyRecord) -> pd.DataFrame:
    """Return the overall Pareto front of the last finished round, by selection loss."""
    return front_frame(latest_points(points_frame(record)), "selection_loss")


def failures_frame(record: StudyRecord) -> pd.DataFrame:
    """Return why evaluations failed: ``reason``, ``count``, and the ``trials`` concerned."""
    failed = record.trials[record.trials["status"] == "failed"]
    rows = [
        {
            "reason": str(reason),
            "count": len(group),
            "trials": ", ".join(str(int(trial)) for trial in sorted(set(group["trial"]))),
        }
        for reason, group in failed.groupby("reason", sort=False, dropna=False)
    ]
    frame = pd.DataFrame(rows, columns=["reason", "count", "trials"])
    return frame.sort_values("count", ascending=False, kind="stable").reset_index(drop=True)


def front_frame(points: pd.DataFrame, value: str = "loss", *, higher: bool = False) -> pd.DataFrame:
    """Return the overall Pareto front: the rows that no other row dominates, of one round.

    The segmented front (``on_front``) keeps the front of each segment, so it is larger.

    ``value`` is ``selection_loss``, ``loss`` or ``metric``. The rows come by ascending average
    bits and keep their row numbers.
    """
    sign = -1.0 if higher else 1.0
    rows = points[points[value].notna()]
    ordered = rows.assign(_cost=sign * rows[value]).sort_values(["average_bits", "_cost"])
    cost = ordered["_cost"].to_numpy(dtype=float)
    before = np.concatenate([[math.inf], np.minimum.accumulate(cost)[:-1]])[: len(cost)]
    return ordered[cost < before].drop(columns="_cost")
