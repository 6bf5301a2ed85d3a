"""Hypervolume of one study, and of several from one reference point."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from qsearch.pareto import normalised_hypervolume
from qsearch.records import StudyRecord
from qsearch_reports.frames.points import points_frame


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
