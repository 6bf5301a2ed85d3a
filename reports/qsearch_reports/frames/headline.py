"""The figures that a report opens with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames.points import latest_points, points_frame

_TOLERATED = 0.01
"""Share of a loss by which another may be above it and still counts as close."""


@dataclass(frozen=True)
class Headline:
    """The figures that a report opens with.

    Configurations are compared by ``selection_loss``, the estimated loss where there is one. What
    the model loses without quantization is an observed loss. Both are of the same examples under
    the same adapter: an error that all losses share, since these examples are easier or harder than
    others, cancels. What is left in an observed loss is how well one configuration's errors happen
    to suit the examples, and among hundreds the one that just comes below a limit is as a rule a
    lucky one; an estimated loss is free of that. The loss without quantization was not chosen among
    many, so it needs no such care. Where no loss is expected, observed ones are compared, and the
    average bits that are named are rather too few.

    Args:
        evaluations: Completed evaluations in all rounds.
        failed: Failed evaluations in all rounds.
        configurations: Distinct configurations that completed at least once.
        rounds: Finished rounds.
        seconds: Wall time of training, evaluation and search in the finished rounds.
        hypervolume: Of the last finished round, normalised; None before the first.
        on_front: Configurations on the segmented front of the latest round.
        best: Row of :func:`points_frame` with the least ``selection_loss`` of the latest round, if
            any.
        is_expected: Whether ``selection_loss`` of ``best`` is an estimated loss.
        full_precision: What the model scores without quantization under the adapter of the last
            finished round; None if that is not known.
        relative_to: What ``within_one_percent`` is 1 % above: ``full precision``, or ``best loss``
            where the former is not known.
        within_one_percent: Row with the fewest average bits whose ``selection_loss`` is at most 1 %
            above the loss that ``relative_to`` names; None if no configuration reaches that.
        excess: By which share the least ``selection_loss`` is above the loss without quantization,
            such as 0.02 for 2 %; negative below it, None if that is not known, or is zero.
        close_to_best: Row with the fewest average bits whose ``selection_loss`` is at most 1 % above
            the least of the latest round, if any.
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
    full_precision: Evaluation | None
    relative_to: Literal["full precision", "best loss"]
    within_one_percent: pd.Series | None
    excess: float | None
    close_to_best: pd.Series | None


def headline(record: StudyRecord) -> Headline:
    """Return the figures that a report opens with."""
    points = points_frame(record)
    latest = latest_points(points)
    full = record.rounds[-1].full_precision if record.rounds else None
    if full is not None and not math.isfinite(full.loss):
        full = None
    losses = latest["selection_loss"].dropna()
    best = close = excess = None
    if not losses.empty:
        best = latest.sort_values(["selection_loss", "average_bits"]).iloc[0]
        close = _fewest_bits(latest, float(losses.min()))
        if full is not None and full.loss != 0:
            excess = (float(losses.min()) - full.loss) / abs(full.loss)
    return Headline(
        evaluations=len(points),
        failed=int((record.trials["status"] == "failed").sum()),
        configurations=points["configuration"].nunique(),
        rounds=len(record.rounds),
        seconds=sum(
            entry.train_seconds + entry.evaluate_seconds + entry.search_seconds
            for entry in record.rounds
        ),
        hypervolume=record.rounds[-1].hypervolume if record.rounds else None,
        on_front=int(latest["on_front"].sum()),
        best=best,
        is_expected=best is not None and bool(pd.notna(best["estimated_loss"])),
        full_precision=full,
        relative_to="best loss" if full is None else "full precision",
        within_one_percent=close if full is None else _fewest_bits(latest, full.loss),
        excess=excess,
        close_to_best=close,
    )


def _fewest_bits(points: pd.DataFrame, loss: float) -> pd.Series | None:
    """Return the row of fewest average bits that is close to a loss, if any."""
    close = points[points["selection_loss"] <= loss + _TOLERATED * abs(loss)]
    if close.empty:
        return None
    return close.sort_values(["average_bits", "selection_loss"]).iloc[0]
