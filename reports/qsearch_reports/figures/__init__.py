"""Frames to Plotly figures: each takes a table of :mod:`qsearch_reports.frames`.

A figure is complete by itself (title, axes with units, light colours). Traces and shapes carry
a part name (``meta`` of a trace, ``name`` of a shape) by which the report page recolours them
for a dark screen. Where a trace draws evaluations, its ``customdata`` begins with their row
numbers in :func:`~qsearch_reports.frames.points_frame`, by which the page links its views.
"""

from qsearch_reports.figures.comparison import comparison_figure, fronts_figure
from qsearch_reports.figures.fronts import front_figure
from qsearch_reports.figures.layers import heatmap_figure
from qsearch_reports.figures.progress import hypervolume_figure, training_figure
from qsearch_reports.figures.style import escape, value_colours, value_title

__all__ = [
    "comparison_figure",
    "escape",
    "front_figure",
    "fronts_figure",
    "heatmap_figure",
    "hypervolume_figure",
    "training_figure",
    "value_colours",
    "value_title",
]
