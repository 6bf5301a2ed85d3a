"""The figures of a report on a page as Plotly writes it, in SVG and in WebGL."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from qsearch_reports import figures, frames
from qsearch_reports.figures.style import LOSS_COLOURS
from qsearch_reports.results import StudyResults

_HEAD = '<!doctype html><html><head><meta charset="utf-8"></head><body>'
_FOOT = """
<script>
addEventListener("load", () => { document.documentElement.dataset.ready = "true"; });
</script>
</body></html>
"""


def study_figures(results: StudyResults) -> dict[str, go.Figure]:
    """Return the figures of a study's report, by the names that the report has for them.

    Of those that a report has in several variants, the one that it shows first.

    Args:
        results: The study.
    """
    record = results.record
    points = frames.points_frame(record)
    predictions = frames.predictions_frame(record)
    knob = next(k for k in record.choices.knobs if k.name == frames.default_knob(record.choices))
    parallel = frames.parallel_frame(record)
    return {
        "loss": figures.front_figure(points, record.segment_edges, record.metric),
        "metric": figures.front_figure(points, record.segment_edges, record.metric, "metric"),
        "parallel": figures.parallel_figure(parallel, frames.parallel_axes(record, parallel)),
        "marginals": figures.marginals_figure(frames.marginals_frame(record, knob.name), knob),
        "sensitivity": figures.sensitivity_figure(frames.sensitivity_frame(results)),
        "progress": figures.progress_figure(frames.progress_frame(results), "evaluation"),
        "predictions": figures.predictions_figure(predictions),
        "calibration": figures.calibration_figure(frames.calibration_frame(predictions)),
        "timeline": figures.timeline_figure(
            frames.timeline_frame(results), frames.phases_frame(results)
        ),
        "training": figures.training_figure(frames.training_frame(record)),
    }


def in_webgl(results: StudyResults, drawn: dict[str, go.Figure]) -> dict[str, go.Figure]:
    """Return figures with their markers in WebGL, and parallel coordinates as Plotly has them.

    Args:
        results: The study.
        drawn: From :func:`study_figures`.
    """
    parallel = frames.parallel_frame(results.record)
    return {name: _markers_in_webgl(figure) for name, figure in drawn.items()} | {
        "parallel": _parcoords(parallel, frames.parallel_axes(results.record, parallel))
    }


def front_rows(results: StudyResults) -> list[int]:
    """Return the rows of :func:`~qsearch_reports.frames.points_frame` on the segments' fronts."""
    points = frames.points_frame(results.record)
    return [int(row) for row in points.index[points["on_front"]]]


def write_plotly_page(drawn: dict[str, go.Figure], path: Path) -> None:
    """Write figures to one page that works offline, by Plotly's own ``to_html``.

    Args:
        drawn: Figures by name; each becomes the ``meta`` of its layout.
        path: The page.
    """
    sections = [
        go.Figure(figure)
        .update_layout(meta=name)
        .to_html(full_html=False, include_plotlyjs=number == 0)
        for number, (name, figure) in enumerate(drawn.items())
    ]
    path.write_text("\n".join([_HEAD, *sections, _FOOT]), encoding="utf-8")


def _markers_in_webgl(figure: go.Figure) -> go.Figure:
    spec = figure.to_plotly_json()
    for trace in spec["data"]:
        if trace["type"] == "scatter" and "markers" in trace.get("mode", ""):
            trace["type"] = "scattergl"
    # Not all that SVG traces have is known to WebGL's, such as how markers are ordered.
    return go.Figure(spec, skip_invalid=True)


def _parcoords(frame: pd.DataFrame, axes: tuple[frames.ParallelAxis, ...]) -> go.Figure:
    return go.Figure(
        go.Parcoords(
            dimensions=[
                {"label": axis.title, "values": frame[axis.column].to_numpy(dtype=float)}
                for axis in axes
            ],
            line={
                "color": frame["group"].to_numpy(),
                "colorscale": [
                    [at / (len(LOSS_COLOURS) - 1), c] for at, c in enumerate(LOSS_COLOURS)
                ],
            },
        )
    )
