"""The values that a report opens with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames.points import latest_points, points_frame

_TOLERATED = 0.01
"""Share of a loss by which another may be above it and still counts as close."""


@dataclass(frozen=True)
class Headline:
    """The values that a report opens with; rows are of :func:`points_frame`.

    Configurations are compared by ``selection_loss``, and what the model loses without quantization
    is an observed loss of the same examples under the same adapter, so that an error that all
    losses share cancels. The least of hundreds of observed losses is biased by how well that
    configuration suits the examples; an estimated loss and that without quantization are not.

    Args:
        configurations: Distinct configurations that completed at least once.
        is_trained: Whether there is an adapter, and rounds of its training.
        rounds, seconds: Finished rounds, and their training, evaluation and search.
        on_front: Configurations on the segmented front of the last finished round.
        best: Row of the least ``selection_loss`` of the last finished round.
        full_precision: What the model scores without quantization under the latest adapter.
        within_one_percent: Row of the fewest average bits whose ``selection_loss`` is at most 1 %
            above the loss that ``relative_to`` names.
        excess: By which share the least ``selection_loss`` is above the loss without quantization,
            such as 0.02 for 2 %; None also if the latter is zero.
        close_to_best: Row of the fewest average bits at most 1 % above the least selection loss.
    """

    evaluations: int
    failed: int
    configurations: int
    is_trained: bool
    rounds: int
    seconds: float
    hypervolume: float | None
    on_front: int
    best: pd.Series | None
    is_estimated: bool
    full_precision: Evaluation | None
    relative_to: Literal["full precision", "best loss"]
    within_one_percent: pd.Series | None
    excess: float | None
    close_to_best: pd.Series | None


def headline(record: StudyRecord) -> Headline:
    """Return the values that a report opens with."""
    points = points_frame(record)
    latest = latest_points(points)
    full = _shown(record, record.rounds[-1].full_precision if record.rounds else None)
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
        is_trained=record.is_trained,
        rounds=len(record.rounds),
        seconds=sum(
            entry.train_seconds + entry.evaluate_seconds + entry.search_seconds
            for entry in record.rounds
        ),
        hypervolume=record.rounds[-1].hypervolume if record.rounds else None,
        on_front=int(latest["on_front"].sum()),
        best=best,
        is_estimated=best is not None and bool(pd.notna(best["estimated_loss"])),
        full_precision=full,
        relative_to="best loss" if full is None else "full precision",
        within_one_percent=close if full is None else _fewest_bits(latest, full.loss),
        excess=excess,
        close_to_best=close,
    )


def _shown(record: StudyRecord, full: Evaluation | None) -> Evaluation | None:
    """Return an evaluation with what the search lowers as its loss, if it has that."""
    if full is None or record.objective == "loss":
        return full
    own = full.metrics.get(record.objective)
    if own is None:
        return None
    return replace(full, loss=own.value, standard_error=own.standard_error)


def _fewest_bits(points: pd.DataFrame, loss: float) -> pd.Series | None:
    """Return the row of fewest average bits that is close to a loss, if any."""
    close = points[points["selection_loss"] <= loss + _TOLERATED * abs(loss)]
    if close.empty:
        return None
    return close.sort_values(["average_bits", "selection_loss"]).iloc[0]
