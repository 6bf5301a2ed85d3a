"""Evaluations, fronts, segments and failures of a study."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from qsearch.storage.study_record import StudyRecord, selection_loss

POINT_COLUMNS = (
    "trial",
    "round",
    "method",
    "average_bits",
    "loss",
    "standard_error",
    "estimated_loss",
    "estimated_loss_std",
    "selection_loss",
    "metric",
    "metric_standard_error",
    "seconds",
    "seen",
    "segment",
    "on_front",
    "latest",
    "predicted_loss",
    "predicted_loss_std",
    "configuration",
)
"""Columns of :func:`points_frame`."""

_FIGURES = (
    "average_bits",
    "loss",
    "standard_error",
    "estimated_loss",
    "estimated_loss_std",
    "metric",
    "metric_standard_error",
    "seconds",
    "predicted_loss",
    "predicted_loss_std",
)


def completed_trials(record: StudyRecord) -> pd.DataFrame:
    """Return the rows of the trial table that :func:`points_frame` has, numbered as there."""
    completed = record.trials[record.trials["status"] == "completed"]
    return completed.sort_values(["round", "trial"], kind="stable").reset_index(drop=True)


def points_frame(record: StudyRecord) -> pd.DataFrame:
    """Return every completed evaluation, one row each.

    Returns:
        Table with :data:`POINT_COLUMNS`, numbered from 0, in order of round and trial; empty if
        nothing completed. Losses, their errors and deviations are in nats, ``seconds`` is wall
        time. A figure that is not finite is not known: NaN.

        - ``selection_loss`` is what configurations are chosen by: the estimated loss where there is
          one, or else the observed ``loss``.
        - ``estimated_loss`` and ``estimated_loss_std`` are NaN until a round ends, and in a
          study that does not tell sampling noise apart.
        - ``predicted_loss`` and ``predicted_loss_std`` are what the surrogate said before the
          evaluation; NaN where it said nothing.
        - ``latest`` marks the rows of the last finished round, or of the first while it runs: those
          are all under one adapter, so only they are comparable with each other.
        - ``configuration`` numbers the distinct configurations, in the order in which they first
          appear.
    """
    ordered = completed_trials(record)
    figures = ordered[list(_FIGURES)].astype(float)
    figures = figures.where(np.isfinite(figures))
    points = pd.DataFrame(
        {
            **{name: ordered[name].astype(int) for name in ("trial", "round", "segment")},
            **{name: ordered[name].astype(bool) for name in ("seen", "on_front")},
            "method": ordered["method"].astype(str),
            **{name: figures[name] for name in _FIGURES},
            "selection_loss": selection_loss(figures),
            "configuration": pd.factorize(ordered["configuration"])[0].astype(int),
        }
    )
    points["latest"] = points["round"] == (record.rounds[-1].round if record.rounds else 1)
    return points[list(POINT_COLUMNS)]


def latest_points(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points of the latest round, keeping their row numbers."""
    return points[points["latest"]]


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
    """Return the overall front: points that no point with as few average bits beats.

    The segmented front (``on_front``) keeps the front of each segment, so it is larger.

    Returns:
        The rows on the front, by ascending average bits, keeping their row numbers.
    """
    sign = -1.0 if higher else 1.0
    known = points[points[value].notna()]
    ordered = known.assign(_cost=sign * known[value]).sort_values(["average_bits", "_cost"])
    cost = ordered["_cost"].to_numpy(dtype=float)
    before = np.concatenate([[math.inf], np.minimum.accumulate(cost)[:-1]])[: len(cost)]
    return ordered[cost < before].drop(columns="_cost")


def segments_frame(record: StudyRecord) -> pd.DataFrame:
    """Return the segments: ``segment``, ``lower`` and ``upper`` edge in average bits,
    ``points`` and ``on_front`` (how many of the latest round lie in it, and on its front).
    """  # noqa: D205
    latest = latest_points(points_frame(record))
    edges = record.segment_edges
    segment = np.arange(max(len(edges) - 1, 0))
    counts = latest.groupby("segment").agg(points=("trial", "size"), on_front=("on_front", "sum"))
    counts = counts.reindex(segment, fill_value=0).astype(int)
    return pd.DataFrame(
        {
            "segment": segment,
            "lower": list(edges[:-1]),
            "upper": list(edges[1:]),
            "points": counts["points"].to_numpy(),
            "on_front": counts["on_front"].to_numpy(),
        }
    )
