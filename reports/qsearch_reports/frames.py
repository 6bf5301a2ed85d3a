"""What the report shows, as pandas tables: pure functions of a study's results.

Every figure is drawn from one of these frames, so a figure that is not here can be made from
them in a notebook. Losses are in nats, average bits in bits per quantized weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from qsearch.errors import InputError
from qsearch.pareto import normalised_hypervolume
from qsearch.records import StudyRecord, best_under, decisive_loss

_BUDGETS = (2.25, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0)

POINT_COLUMNS = (
    "trial",
    "round",
    "method",
    "average_bits",
    "loss",
    "standard_error",
    "expected_loss",
    "expected_loss_deviation",
    "decisive_loss",
    "metric",
    "metric_standard_error",
    "seconds",
    "seen",
    "segment",
    "on_front",
    "latest",
)


@dataclass(frozen=True)
class Headline:
    """The figures that a report opens with.

    Args:
        evaluations: Completed evaluations in all rounds.
        failed: Failed evaluations in all rounds.
        configurations: Distinct configurations that completed at least once.
        rounds: Finished rounds.
        seconds: Wall time of training, evaluation and search in the finished rounds.
        hypervolume: Of the last finished round, normalised; None before the first.
        on_front: Configurations on the segmented front of the latest round.
        best: Row of :func:`points_frame` with the least ``decisive_loss`` of the latest round, if
            any.
        is_expected: Whether ``decisive_loss`` is the expected loss there.
        within_one_percent: Row with the fewest average bits whose ``decisive_loss`` is at most 1 %
            above the least.
    """

    evaluations: int
    failed: int
    configurations: int
    rounds: int
    seconds: float
    hypervolume: float | None
    on_front: int
    best: pd.Series | None
    is_expected: bool
    within_one_percent: pd.Series | None


def points_frame(record: StudyRecord) -> pd.DataFrame:
    """Return every completed evaluation, one row each.

    Args:
        record: The study.

    Returns:
        Table with :data:`POINT_COLUMNS`, numbered from 0, in order of round and trial.
        ``decisive_loss`` is what configurations are chosen by: the expected loss where there is
        one. ``latest`` marks the rows of the last finished round, or of the first while it runs:
        those are all under one adapter, so only they are comparable with each other.
    """
    completed = record.trials[record.trials["status"] == "completed"]
    ordered = completed.sort_values(["round", "trial"], kind="stable").reset_index(drop=True)
    points = pd.DataFrame(
        {
            **{name: ordered[name].astype(int) for name in ("trial", "round", "segment")},
            **{name: ordered[name].astype(bool) for name in ("seen", "on_front")},
            "method": ordered["method"].astype(str),
            **{
                name: ordered[name].astype(float)
                for name in (
                    "average_bits",
                    "loss",
                    "standard_error",
                    "expected_loss",
                    "expected_loss_deviation",
                    "metric",
                    "metric_standard_error",
                    "seconds",
                )
            },
            "decisive_loss": decisive_loss(ordered),
        }
    )
    points["latest"] = points["round"] == (record.rounds[-1].round if record.rounds else 0)
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

    Args:
        points: Rows of :func:`points_frame`, of one round.
        value: ``decisive_loss``, ``loss`` or ``metric``.
        higher: Whether higher values are better.

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


def hypervolume_frame(record: StudyRecord) -> pd.DataFrame:
    """Return ``round`` and the normalised ``hypervolume`` that the study recorded for it."""
    return pd.DataFrame(
        {
            "round": [entry.round for entry in record.rounds],
            "hypervolume": [entry.hypervolume for entry in record.rounds],
        }
    )


def hypervolume(
    points: pd.DataFrame, reference_point: tuple[float, float], least_bits: float
) -> float:
    """Return the normalised hypervolume of points in (loss, average bits), both minimised.

    Args:
        points: Rows with ``loss`` and ``average_bits``.
        reference_point: (loss, average bits) that it is measured from.
        least_bits: Least average bits of the space; the area is divided by the area between
            the reference point and (0, ``least_bits``).
    """
    pairs = points[["loss", "average_bits"]].to_numpy(dtype=float)
    return normalised_hypervolume(pairs, reference_point, (0.0, least_bits))


def common_reference(records: Sequence[StudyRecord]) -> tuple[tuple[float, float], float] | None:
    """Return one reference point (loss, average bits) and least average bits for all studies.

    The reference point is the worst of the studies' own in each objective.

    Returns:
        None if no study has a reference point.
    """
    points = [record.reference_point for record in records if record.reference_point]
    if not points:
        return None
    reference = (max(point[0] for point in points), max(point[1] for point in points))
    return reference, min(record.average_bits_range[0] for record in records)


def comparison_frame(records: Sequence[StudyRecord], names: Sequence[str]) -> pd.DataFrame:
    """Return hypervolume by round of several studies, from one common reference point.

    Args:
        records: The studies.
        names: A distinct label for each.

    Returns:
        Table of ``study``, ``round``, ``hypervolume``; empty if no study has a reference point.
    """
    rows = []
    common = common_reference(records)
    if common:
        for record, name in zip(records, names, strict=True):
            for number, group in points_frame(record).groupby("round"):
                rows.append((name, number, hypervolume(group, *common)))
    return pd.DataFrame(rows, columns=["study", "round", "hypervolume"])


def training_frame(record: StudyRecord, points_per_round: int = 300) -> pd.DataFrame:
    """Return the training loss by round.

    Args:
        record: The study.
        points_per_round: A longer round is averaged down to this many points, so that a
            report stays small.

    Returns:
        Table of ``round``, ``step`` (last step of the average, counted from 1 over all rounds)
        and ``loss`` (mean over the steps averaged).
    """
    frames = []
    before = 0
    for entry in record.rounds:
        losses = np.asarray(entry.train_losses, dtype=float)
        if losses.size:
            parts = np.array_split(losses, min(losses.size, points_per_round))
            steps = before + np.cumsum([part.size for part in parts])
            means = [float(part.mean()) for part in parts]
            frames.append(pd.DataFrame({"round": entry.round, "step": steps, "loss": means}))
        before += losses.size
    if not frames:
        return pd.DataFrame({"round": [], "step": [], "loss": []})
    return pd.concat(frames, ignore_index=True)


def study_budgets(record: StudyRecord) -> list[float]:
    """Return the budgets that a study is summarised at: some within its interval, and its end.

    Those that no configuration of the latest round fits are left out, and those that buy nothing
    more than a smaller one does, except the end.

    Args:
        record: The study.

    Returns:
        Average bits, rising.
    """
    low, high = record.segment_edges[0], record.segment_edges[-1]
    inside = [budget for budget in _BUDGETS if low < budget < high]
    if len(inside) < 3:
        inside = [round(float(budget), 2) for budget in np.linspace(low, high, 9)[1:-1]]
    found = budget_frame(record, (*inside, high)).dropna(subset="trial")
    kept = ~found.duplicated("trial") | (found["budget"] == high)
    return [float(budget) for budget in found[kept]["budget"]]


def budget_frame(record: StudyRecord, budgets: Sequence[float]) -> pd.DataFrame:
    """Return the best configuration of the latest round at or under each budget.

    Args:
        record: The study.
        budgets: Average bits.

    Returns:
        Table of ``budget``, ``trial``, ``average_bits``, ``loss``, ``standard_error``,
        ``expected_loss``, ``expected_loss_deviation``, ``metric``, ``metric_standard_error``,
        ``seen``; missing values where nothing fits.
    """
    columns = (
        "trial",
        "average_bits",
        "loss",
        "standard_error",
        "expected_loss",
        "expected_loss_deviation",
        "metric",
        "metric_standard_error",
        "seen",
    )
    rows: list[dict[str, object]] = []
    for budget in budgets:
        try:
            best = best_under(record, budget)
        except InputError:
            rows.append({"budget": budget, **dict.fromkeys(columns)})
        else:
            rows.append({"budget": budget, **{name: best[name] for name in columns}})
    return pd.DataFrame(rows, columns=["budget", *columns])


def headline(record: StudyRecord) -> Headline:
    """Return the figures that a report opens with."""
    points = points_frame(record)
    latest = latest_points(points)
    losses = latest["decisive_loss"].dropna()
    best = within = None
    if not losses.empty:
        best = latest.sort_values(["decisive_loss", "average_bits"]).iloc[0]
        close = latest[latest["decisive_loss"] <= losses.min() + 0.01 * abs(losses.min())]
        within = close.sort_values(["average_bits", "decisive_loss"]).iloc[0]
    return Headline(
        evaluations=len(points),
        failed=int((record.trials["status"] == "failed").sum()),
        configurations=points["trial"].nunique(),
        rounds=len(record.rounds),
        seconds=sum(
            entry.train_seconds + entry.evaluate_seconds + entry.search_seconds
            for entry in record.rounds
        ),
        hypervolume=record.rounds[-1].hypervolume if record.rounds else None,
        on_front=int(latest["on_front"].sum()),
        best=best,
        is_expected=bool(latest["expected_loss"].notna().any()),
        within_one_percent=within,
    )
