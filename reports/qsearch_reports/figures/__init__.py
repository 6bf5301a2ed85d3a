"""Frames to Plotly figures: each takes a table of :mod:`qsearch_reports.frames`.

A figure is complete by itself (title, axes with units, light colours). Traces and shapes carry
a part name (``meta`` of a trace, ``name`` of a shape) by which the report page recolours them
for a dark screen. Where a trace draws evaluations, its ``customdata`` begins with their row
numbers in :func:`~qsearch_reports.frames.points_frame` (−1 for what is none of them, such as a gap
in a line), by which the page links its views; where it draws layers, or rounds, with the layer's
position or the round, and its part's name begins with ``layer`` or ``round``. A figure of an empty
table says what is missing.
"""

from qsearch_reports.figures.comparison import (
    comparison_figure,
    fronts_figure,
    outcome_legend,
    outcomes_figure,
    time_figure,
)
from qsearch_reports.figures.fronts import Ranges, front_figure, front_ranges
from qsearch_reports.figures.layers import heatmap_figure
from qsearch_reports.figures.marginals import marginals_figure
from qsearch_reports.figures.parallel import parallel_figure
from qsearch_reports.figures.progress import hypervolume_figure, progress_figure, training_figure
from qsearch_reports.figures.sensitivity import sensitivity_figure
from qsearch_reports.figures.style import escape, value_colours, value_title
from qsearch_reports.figures.surrogate import calibration_figure, predictions_figure
from qsearch_reports.figures.timeline import timeline_figure
