"""Several studies in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from qsearch_reports.figures.style import (
    escape,
    new_figure,
    round_axis,
    study_style,
)


def fronts_figure(fronts: Sequence[tuple[str, pd.DataFrame]], label: str) -> go.Figure:
    """Overlay the overall fronts of several studies.

    Args:
        fronts: Each study's name and its front's ``average_bits`` and ``value``.
        label: Title of the value axis, with its unit.
    """
    figure = new_figure("Fronts of the studies")
    for place, (name, front) in enumerate(fronts):
        figure.add_scatter(
            x=front["average_bits"],
            y=front["value"],
            line={"shape": "hv"},
            customdata=[[escape(name)]] * len(front),
            hovertemplate="%{customdata[0]}<br>average bits %{x:.3f}<br>value %{y:.4f}"
            "<extra></extra>",
            **study_style(place, name),
        )
    figure.update_xaxes(title_text="average bits per quantized weight")
    figure.update_yaxes(title_text=label)
    return figure


def comparison_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw hypervolume by round of several studies, from
    :func:`~qsearch_reports.frames.comparison_frame`.
    """  # noqa: D205
    figure = new_figure("Hypervolume by round, same reference point")
    for place, (name, rows) in enumerate(frame.groupby("study", sort=False)):
        figure.add_scatter(
            x=rows["round"],
            y=rows["hypervolume"],
            customdata=[[escape(name)]] * len(rows),
            hovertemplate="%{customdata[0]}<br>round %{x}<br>hypervolume %{y:.4f}<extra></extra>",
            **study_style(place, str(name)),
        )
    round_axis(figure, frame["round"])
    figure.update_yaxes(title_text="hypervolume (normalised)")
    return figure
