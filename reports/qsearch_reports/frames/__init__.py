"""What reports show, as pandas tables: pure functions of a study's results.

Every figure is drawn from one of these frames, so a figure that is not here can be made from
them in a notebook. Losses are in nats, average bits in bits per quantized weight.
"""

from qsearch_reports.frames.budgets import budget_frame, study_budgets
from qsearch_reports.frames.headline import Headline, headline
from qsearch_reports.frames.hypervolume import (
    common_reference,
    comparison_frame,
    hypervolume,
    hypervolume_frame,
)
from qsearch_reports.frames.layers import (
    LayerGrid,
    choice_indices,
    default_knob,
    heatmap_frame,
    layer_grid,
)
from qsearch_reports.frames.points import (
    POINT_COLUMNS,
    failures_frame,
    front_frame,
    latest_points,
    points_frame,
    segments_frame,
)
from qsearch_reports.frames.training import training_frame

__all__ = [
    "POINT_COLUMNS",
    "Headline",
    "LayerGrid",
    "budget_frame",
    "choice_indices",
    "common_reference",
    "comparison_frame",
    "default_knob",
    "failures_frame",
    "front_frame",
    "headline",
    "heatmap_frame",
    "hypervolume",
    "hypervolume_frame",
    "latest_points",
    "layer_grid",
    "points_frame",
    "segments_frame",
    "study_budgets",
    "training_frame",
]
