"""How a study went: hypervolume and training loss."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from qsearch_reports.figures.style import (
    COLOURS,
    new_figure,
    round_axis,
    vertical,
)


def hypervolume_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw hypervolume by round, from :func:`~qsearch_reports.frames.hypervolume_frame`."""
    figure = new_figure("Hypervolume by round")
    figure.add_scatter(
        x=frame["round"],
        y=frame["hypervolume"],
        mode="lines+markers",
        line={"color": COLOURS["line"], "width": 2},
        marker={"size": 8},
        name="hypervolume",
        hovertemplate="round %{x}<br>hypervolume %{y:.4f}<extra></extra>",
        meta="line",
    )
    round_axis(figure, frame["round"])
    figure.update_yaxes(title_text="hypervolume (normalised)")
    return figure


def training_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw training loss by step, from :func:`~qsearch_reports.frames.training_frame`."""
    figure = new_figure("Training loss by round")
    starts: list[dict[str, Any]] = []
    for number in frame["round"].unique().astype(int):
        rows = frame[frame["round"] == number]
        starts.append(vertical(float(rows["step"].iloc[0]), "segment"))
        figure.add_scatter(
            x=rows["step"],
            y=rows["loss"],
            mode="lines",
            line={"color": COLOURS["line"], "width": 1.5},
            name=f"round {number}",
            hovertemplate=f"round {number}, step %{{x}}<br>loss %{{y:.4f}}<extra></extra>",
            showlegend=False,
            meta="line",
        )
    figure.update_layout(shapes=starts[1:])
    figure.update_xaxes(title_text="optimizer step (all rounds)")
    figure.update_yaxes(title_text="training loss (nats)")
    return figure
