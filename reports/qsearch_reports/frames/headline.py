"""The values that a report opens with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pandas as pd

from qsearch.claims.claims import Claim
from qsearch.claims.study_claims import Claims
from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames.points import latest_points, points_frame

_TOLERATED = 0.01
"""Share of a loss by which another may be above it and still counts as close."""


@dataclass(frozen=True)
class Headline:
    """The values that a report opens with; rows are of :func:`points_frame`.

    Args:
        configurations: Distinct configurations that completed at least once.
        is_trained: Whether there is an adapter, and rounds of its training.
        rounds, seconds: Finished rounds, and their training, evaluation and search.
        on_front: Configurations on the segmented front of the last finished round.
        best: Row of the least ``selection_loss`` of the last finished round.
        full_precision: What the model scores without quantization under the latest adapter.
        claim: The smallest configuration without a measurable loss, if there is one.
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
    claim: Claim | None
    close_to_best: pd.Series | None

    @property
    def named(self) -> pd.Series | None:
        """The row that a report names first: that of the claim, or the one close to the best."""
        return self.close_to_best if self.claim is None else self.claim.row


def headline(record: StudyRecord, claims: Claims | None = None) -> Headline:
    """Return the values that a report opens with; claims are those of the record."""
    points = points_frame(record)
    latest = latest_points(points)
    full = _shown(record, record.rounds[-1].full_precision if record.rounds else None)
    if full is not None and not math.isfinite(full.loss):
        full = None
    losses = latest["selection_loss"].dropna()
    best = close = None
    if not losses.empty:
        best = latest.sort_values(["selection_loss", "average_bits"]).iloc[0]
        close = _fewest_bits(latest, float(losses.min()))
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
        claim=None if claims is None else claims.no_loss,
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
