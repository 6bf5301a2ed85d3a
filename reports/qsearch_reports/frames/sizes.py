"""The sizes that figures draw losses against: average bits, and bytes of weight files."""

from __future__ import annotations

from collections.abc import Mapping

from qsearch.plugins.footprint import Footprint
from qsearch.storage.study_record import Size, StudyRecord


def segment_edges(
    record: StudyRecord, footprint: Footprint | None
) -> Mapping[Size, tuple[float, ...]]:
    """Return the edges of the segments by each size that is known (segments + 1)."""
    edges: dict[Size, tuple[float, ...]] = {"average_bits": record.segment_edges}
    if footprint is not None:
        weights, fixed = footprint.quantized_weights, footprint.fixed_bytes
        edges["bytes"] = tuple(fixed + bits * weights / 8 for bits in record.segment_edges)
    return edges
