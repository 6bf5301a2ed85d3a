"""Dominance, fronts, hypervolume and the segmented Pareto filter, all minimising.

Points are rows (loss, average bits), finite (n × 2). Every function is pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qsearch._arrays import Booleans, Floats, Integers
from qsearch.errors import InputError


def non_dominated(points: Floats) -> Booleans:
    """Return which points no other point dominates (n).

    A point dominates another if it is no greater in both coordinates and less in one. Equal points
    do not dominate each other, so all copies of a non-dominated point are kept.
    """
    _require_points(points)
    keep = np.zeros(len(points), dtype=bool)
    order = np.lexsort((points[:, 0], points[:, 1]))
    best, best_bits = np.inf, -np.inf
    for position in order:
        loss, bits = points[position]
        if loss < best or (loss == best and bits == best_bits):
            keep[position] = True
            best, best_bits = loss, bits
    return keep


def front(points: Floats) -> Floats:
    """Return the distinct non-dominated points (m × 2), ordered by average bits."""
    kept = np.unique(points[non_dominated(points)], axis=0)
    return kept[np.argsort(kept[:, 1])]


def hypervolume(points: Floats, reference_point: Sequence[float]) -> float:
    """Return the area that the points dominate, up to a reference point.

    Points that are not below the reference point in both coordinates add nothing.
    """
    reference = np.asarray(reference_point, dtype=np.float64)
    if reference.shape != (2,) or not np.isfinite(reference).all():
        raise InputError(f"reference point must be two finite numbers, not {reference_point}")
    _require_points(points)
    inside = front(points[(points < reference).all(axis=1)])
    right_edges = np.append(inside[1:, 1], reference[1])
    return float(((right_edges - inside[:, 1]) * (reference[0] - inside[:, 0])).sum())


def normalised_hypervolume(
    points: Floats, reference_point: Sequence[float], ideal_point: Sequence[float]
) -> float:
    """Return the hypervolume as a share of the box between ideal and reference point."""
    box = np.asarray(reference_point, dtype=np.float64) - np.asarray(ideal_point)
    if not (box > 0).all():
        raise InputError(f"ideal point {ideal_point} must be below reference {reference_point}")
    return hypervolume(points, reference_point) / float(box.prod())


def ideal_point(reference_point: Sequence[float], least_bits: float) -> tuple[float, float]:
    """Return the point opposite to a reference point: loss 0 and least average bits.

    Losses of an objective may be negative; a reference point of no positive loss has the ideal 1
    below it.
    """
    loss = float(reference_point[0])
    return (0.0 if loss > 0 else loss - 1.0), least_bits


def segment_edges(bits: tuple[float, float], segments: int) -> Floats:
    """Return the edges of equal segments of average bits (segments + 1)."""
    if segments < 1 or bits[0] >= bits[1]:
        raise InputError(f"cannot divide average bits {bits} into {segments} segments")
    return np.linspace(bits[0], bits[1], segments + 1)


def segment_of(average_bits: Floats, edges: Floats) -> Integers:
    """Return the segment of each value (n); segments are closed on the left.

    The last segment is closed on the right too; values outside fall into the nearest segment.
    """
    position = np.searchsorted(edges, average_bits, side="right") - 1
    return np.clip(position, 0, len(edges) - 2).astype(np.int64)


def segmented_front(points: Floats, edges: Floats) -> Booleans:
    """Return which points are on the front of their own segment (n).

    This keeps representatives over the whole range of average bits, of which the plain front may
    leave parts empty. Source: CoA-LoRA, segmented Pareto filtering.
    """
    _require_points(points)
    segment = segment_of(points[:, 1], edges)
    keep = np.zeros(len(points), dtype=bool)
    for number in np.unique(segment):
        members = np.flatnonzero(segment == number)
        keep[members] = non_dominated(points[members])
    return keep


def _require_points(points: Floats) -> None:
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputError(f"points must have shape (n, 2), not {points.shape}")
    if not np.isfinite(points).all():
        raise InputError("points must be finite; leave failed evaluations out")


def reference_point(loss: Floats, bits: tuple[float, float]) -> tuple[float, float]:
    """Return the point that hypervolume is measured from: a tenth beyond the worst loss."""
    worst, best = float(loss.max()), float(loss.min())
    return worst + 0.1 * max(worst - best, 1e-6), bits[1] + 1e-9
