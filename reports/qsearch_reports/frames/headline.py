"""The figures that a report opens with."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from qsearch.records import StudyRecord
from qsearch_reports.frames.points import latest_points, points_frame


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
