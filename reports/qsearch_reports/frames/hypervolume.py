"""Hypervolume of one study."""

from __future__ import annotations

import math

import pandas as pd

from qsearch.search.pareto import ideal_point, normalised_hypervolume
from qsearch.storage.study_record import StudyRecord


def hypervolume_frame(record: StudyRecord) -> pd.DataFrame:
    """Return ``round`` and the normalised ``hypervolume`` that the study recorded for it."""
    return pd.DataFrame(
        {
            "round": [entry.round for entry in record.rounds],
            "hypervolume": [entry.hypervolume for entry in record.rounds],
        }
    )


def box_area(reference_point: tuple[float, float] | None, least_bits: float) -> float | None:
    """Return the area between a reference point and (0, ``least_bits``); None if there is none."""
    if reference_point is None:
        return None
    loss, bits = reference_point
    area = loss * (bits - least_bits)
    return area if loss > 0 and bits > least_bits and math.isfinite(area) else None


def hypervolume(
    points: pd.DataFrame, reference_point: tuple[float, float], least_bits: float
) -> float:
    """Return the normalised hypervolume of points in (loss, average bits), both minimised."""
    pairs = points[["loss", "average_bits"]].dropna().to_numpy(dtype=float)
    return normalised_hypervolume(pairs, reference_point, ideal_point(reference_point, least_bits))
