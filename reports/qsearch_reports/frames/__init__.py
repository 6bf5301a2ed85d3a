"""What reports show, as pandas tables: pure functions of a study's results.

Every figure is drawn from one of these frames, so a figure that is not here can be made from
them in a notebook. Losses are in nats, save those of objectives; average bits in bits per quantized
weight. Their columns are in ``docs/report-frames.md``, which a test compares with them; docstrings
say what is left.
"""

from qsearch_reports.frames.budgets import budget_frame, study_budgets
from qsearch_reports.frames.comparison import (
    best_within,
    common_budgets,
    common_interval,
    common_reference,
    comparison_frame,
    front_budgets,
    hypervolume_table,
    method_frame,
    study_fronts_frame,
    time_frame,
)
from qsearch_reports.frames.groups import (
    Method,
    distinct,
    group_methods,
    incomparable,
    setting_differences,
)
from qsearch_reports.frames.headline import Headline, headline
from qsearch_reports.frames.hypervolume import hypervolume, hypervolume_frame
from qsearch_reports.frames.layers import (
    LayerGrid,
    choice_indices,
    default_knob,
    heatmap_frame,
    layer_grid,
)
from qsearch_reports.frames.marginals import marginals_frame
from qsearch_reports.frames.outcomes import OUTCOMES, common_edges, outcome_counts, outcomes_frame
from qsearch_reports.frames.parallel import ParallelAxis, parallel_axes, parallel_frame
from qsearch_reports.frames.points import (
    POINT_COLUMNS,
    failures_frame,
    front_frame,
    latest_front,
    latest_points,
    loss_unit,
    more_metrics,
    points_frame,
    row_choices,
)
from qsearch_reports.frames.progress import progress_frame
from qsearch_reports.frames.sensitivity import sensitivity_frame
from qsearch_reports.frames.sizes import segment_edges
from qsearch_reports.frames.speed import tokens_per_second
from qsearch_reports.frames.surrogate import calibration_frame, predictions_frame
from qsearch_reports.frames.timeline import phases_frame, timeline_frame
from qsearch_reports.frames.training import training_frame
