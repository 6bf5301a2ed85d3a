"""How the hypervolume grew, result by result."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort

import numpy as np
import pandas as pd

from qsearch_reports.frames.clock import log_history
from qsearch_reports.frames.hypervolume import box_area
from qsearch_reports.frames.points import points_frame
from qsearch_reports.results import StudyResults

_COLUMNS = ["row", "trial", "round", "evaluation", "minutes", "hypervolume"]


class GrowingHypervolume:
    """The area that points dominate, one point after another, in O(log n) steps and a list move.

    Args:
        reference_point: (loss, average bits) that every counted point dominates.
    """

    def __init__(self, reference_point: tuple[float, float]) -> None:
        self.area = 0.0
        self._reference = reference_point
        # The front: average bits rise, losses fall; so losses are kept negated, rising too.
        self._bits: list[float] = []
        self._gains: list[float] = []

    def add(self, loss: float, average_bits: float) -> float:
        """Take in a point and return the area; a point that is not finite adds nothing."""
        worst, most = self._reference
        if not (math.isfinite(loss) and loss < worst and average_bits < most):
            return self.area
        bits, gains = self._bits, self._gains
        at = bisect_right(bits, average_bits)
        if at and gains[at - 1] >= -loss:
            return self.area  # A point with as few average bits is as good.
        first = bisect_left(bits, average_bits)
        last = bisect_right(gains, -loss)  # The new point dominates those between.
        height = worst if first == 0 else -gains[first - 1]
        left = average_bits
        for place in range(first, last):
            self.area += (bits[place] - left) * (height - loss)
            left, height = bits[place], -gains[place]
        right = bits[last] if last < len(bits) else most
        self.area += (right - left) * (height - loss)
        del bits[first:last], gains[first:last]
        insort(bits, average_bits)
        insort(gains, -loss)
        return self.area


def progress_frame(results: StudyResults) -> pd.DataFrame:
    """Return the hypervolume after each evaluation.

    Each round starts again: its evaluations are under another adapter, so those of the rounds
    before are not comparable with them. Rows are in the order in which results came; those that the
    log lacks are first in their round, in order of trial, and their ``minutes`` are NaN. So is
    ``hypervolume`` while the study has no reference point, which round 1 fixes when it ends.
    """
    record = results.record
    points = points_frame(record)
    _, logged = log_history(results.events)
    logged = logged[logged["status"] == "completed"].drop_duplicates(
        ["trial", "round"], keep="last"
    )
    at = logged.set_index(["round", "trial"])["minutes"].astype(float)
    keys = pd.MultiIndex.from_frame(points[["round", "trial"]])
    frame = pd.DataFrame(
        {
            **{name: points[name] for name in ("trial", "round", "loss", "average_bits")},
            "row": points.index,
            "minutes": at.reindex(keys).to_numpy(dtype=float),
        }
    ).sort_values(["round", "minutes", "trial"], kind="stable", na_position="first")
    frame = frame.assign(evaluation=np.arange(1, len(frame) + 1), hypervolume=math.nan)
    box = box_area(record.reference_point, record.average_bits_range[0])
    if record.reference_point is not None and box is not None:
        grown: list[float] = []
        for _, rows in frame.groupby("round"):
            area = GrowingHypervolume(record.reference_point)
            pairs = zip(rows["loss"], rows["average_bits"], strict=True)
            grown += [area.add(*pair) / box for pair in pairs]
        frame["hypervolume"] = grown
    return frame[_COLUMNS].reset_index(drop=True)
