"""Configurations as lines through parallel axes: what they are made of, and what that gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames.layers import is_numeric, knob_places, value_amounts, weight_shares
from qsearch_reports.frames.points import latest_points, points_frame, row_choices

LOSS_GROUPS = 4
"""Groups of equal size that lines are coloured by, from the least losses to the greatest."""


@dataclass(frozen=True)
class ParallelAxis:
    """One axis of parallel coordinates: a column of :func:`parallel_frame`.

    Args:
        low, high: Least and greatest value; equal if there is one value alone.
        ticks: Values along it, rising, each with its label; those of a knob that is not of numbers
            are all its values, some of which may be outside of ``low`` and ``high``.
        names: The values of a knob that is not of numbers, by their places.
    """

    column: str
    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    names: tuple[str, ...] = ()


def knob_column(knob: str) -> str:
    """Return the column of :func:`parallel_frame` that holds a knob's mean."""
    return f"mean {knob}"


def parallel_frame(record: StudyRecord) -> pd.DataFrame:
    """Return the last finished round's configurations by what they are made of, and their results.

    Means are over the quantized weights; of places in the knob's order, from 0, if its values are
    not all numbers.
    """
    points = latest_points(points_frame(record))
    indices = row_choices(record)[points.index.to_numpy()]
    shares = weight_shares(record.layers)
    means = {
        knob_column(knob.name): value_amounts(knob)[
            knob_places(record.choices, indices, knob.name)
        ].reshape(indices.shape)
        @ shares
        for knob in record.choices.knobs
    }
    rank = points["selection_loss"].rank(method="first") - 1
    group = (rank * LOSS_GROUPS // max(len(points), 1)).fillna(LOSS_GROUPS - 1).astype(int)
    return pd.DataFrame(
        {
            "trial": points["trial"],
            "average_bits": points["average_bits"],
            **means,
            **{name: points[name] for name in ("selection_loss", "metric", "seen", "on_front")},
            "group": group,
        },
        index=points.index,
    )


def parallel_axes(record: StudyRecord, frame: pd.DataFrame) -> tuple[ParallelAxis, ...]:
    """Return the axes of parallel coordinates, from left to right.

    Returns:
        Average bits, each knob, the loss, and the task metric if it is known. None if the
        frame is empty.
    """
    is_estimated = record.latest["estimated_loss"].notna().any()
    titles = {
        "average_bits": "average bits",
        **{knob_column(knob.name): knob.name for knob in record.choices.knobs},
        "selection_loss": "estimated loss" if is_estimated else "loss",
        **({"metric": record.metric.name} if record.metric else {}),
    }
    names = {
        knob_column(knob.name): tuple(str(value) for value in knob.values)
        for knob in record.choices.knobs
        if not is_numeric(knob)
    }
    axes = []
    for column, title in titles.items():
        values = frame[column].to_numpy(dtype=float)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = float(values.min()), float(values.max())
            of_column = names.get(column, ())
            ticks = tuple((float(at), name) for at, name in enumerate(of_column))
            axes.append(
                ParallelAxis(column, title, low, high, ticks or _ticks(low, high), of_column)
            )
    return tuple(axes)


def _ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Return three to six round values within a range; the value itself if there is one alone."""
    if low == high:
        return ((low, f"{low:.4g}"),)
    if not 0 < (high - low) / 3 < math.inf:
        return (low, f"{low:.4g}"), (high, f"{high:.4g}")
    size = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = max(unit * size for unit in (1, 2, 2.5, 5) if unit * size <= (high - low) / 3)
    places = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return tuple((place * step, f"{place * step:.6g}") for place in places)
