"""Configurations by layer."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from qsearch.space.configuration import Knob
from qsearch_reports.figures import style


def heatmap_figure(frame: pd.DataFrame, knob: Knob) -> go.Figure:
    """Draw one knob of a configuration by role and block."""
    places = [
        [None if cell is None else knob.index(cell) for cell in row]
        for row in frame.to_numpy(dtype=object)
    ]
    labels = [
        ["" if cell is None else style.escape(cell) for cell in row] for row in frame.to_numpy()
    ]
    figure = style.new_figure(f"{style.escape(knob.name, 40)} by layer")
    if frame.empty:
        return style.note(figure, "the model has no quantizable layer")
    name = style.template_text(knob.name)
    figure.add_heatmap(
        x=[str(block) for block in frame.columns],
        y=list(range(len(frame.index))),
        z=places,
        customdata=labels,
        zmin=-0.5,
        zmax=len(knob.values) - 0.5,
        colorscale=style.stepped_colorscale(len(knob.values)),
        colorbar={
            "tickvals": list(range(len(knob.values))),
            "ticktext": [style.escape(value, 20) for value in knob.values],
            "title": {"text": style.escape(knob.name, 20)},
        },
        xgap=2,
        ygap=2,
        text=[[style.escape(role)] * len(frame.columns) for role in frame.index],
        hovertemplate=f"block %{{x}}<br>%{{text}}<br>{name} %{{customdata}}<extra></extra>",
        hoverongaps=False,
        meta="heatmap",
    )
    _lay_out(figure, frame)
    return figure


def _lay_out(figure: go.Figure, frame: pd.DataFrame) -> None:
    """Give a heatmap its axes: blocks from left to right, roles from the top."""
    figure.update_xaxes(title_text="block", type="category", showgrid=False, showline=False)
    figure.update_yaxes(
        autorange="reversed",
        tickvals=list(range(len(frame.index))),
        ticktext=[style.escape(role, 24) for role in frame.index],
        showgrid=False,
        showline=False,
        ticks="",
    )
