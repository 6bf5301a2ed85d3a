"""Configurations as lines through parallel axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go

from qsearch_reports.figures import style
from qsearch_reports.frames.parallel import ParallelAxis

_MANY = 150
"""Lines of a group above which they are drawn thinner."""

_GROUPS = ("least quarter of losses", "second quarter", "third quarter", "greatest quarter")


def parallel_figure(frame: pd.DataFrame, axes: Sequence[ParallelAxis]) -> go.Figure:
    """Draw each configuration as a line through one axis per knob, and what that gives.

    Lines of one quarter of the losses are one trace, with gaps between them, so that thousands are
    drawn at once. A line's points all have the row number of its configuration.
    """
    figure = style.new_figure("Knobs of all configurations")
    if frame.empty or not axes:
        return style.note(figure, "no configuration has been evaluated yet")
    spans = [_span(axis) for axis in axes]
    values = frame[[axis.column for axis in axes]].to_numpy(dtype=float)
    heights = np.column_stack([_place(values[:, at], span) for at, span in enumerate(spans)])
    groups = frame["group"].to_numpy()
    # The best are drawn last, over the others.
    for group in range(len(_GROUPS) - 1, -1, -1):
        inside = np.flatnonzero(groups == group)
        if inside.size:
            figure.add_trace(_lines(frame.iloc[inside], values[inside], heights[inside], group))
    ticks = [
        (at, float(_place(np.array([value]), span)[0]), style.escape(label, 14))
        for at, (axis, span) in enumerate(zip(axes, spans, strict=True))
        for value, label in axis.ticks
    ]
    figure.update_layout(
        shapes=[
            {
                "type": "line",
                "x0": at,
                "x1": at,
                "y0": 0,
                "y1": 1,
                "layer": "above",
                "line": {"width": 1.5, "color": "#6B7684"},
                "name": "front",
            }
            for at in range(len(axes))
        ],
        annotations=[
            {
                "x": at,
                "y": height,
                "text": label,
                "showarrow": False,
                "xanchor": "right",
                "xshift": -3,
                "font": {"size": 11},
                "bgcolor": "rgba(255,255,255,0.8)",
                "borderpad": 1,
            }
            for at, height, label in ticks
        ],
        legend={"traceorder": "reversed"},
    )
    figure.update_xaxes(
        range=[-0.45, len(axes) - 0.85],
        tickvals=list(range(len(axes))),
        ticktext=[style.escape(axis.title, 18) for axis in axes],
        ticklabeloverflow="allow",
        showgrid=False,
        showline=False,
        ticks="",
        side="bottom",
    )
    figure.update_yaxes(range=[-0.04, 1.04], visible=False)
    return figure


def _span(axis: ParallelAxis) -> tuple[float, float]:
    """Return what lies at the foot and at the head of an axis: all values and all ticks."""
    ticks = [value for value, _ in axis.ticks]
    return min(axis.low, *ticks), max(axis.high, *ticks)


def _place(values: npt.NDArray[np.float64], span: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Return heights on an axis from 0 to 1; in the middle if the axis has one value alone."""
    low, high = span
    return np.full(len(values), 0.5) if low == high else (values - low) / (high - low)


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return values with four decimals, or as many more as their greatest begins with zeros."""
    most = float(np.nanmax(np.abs(values), initial=0.0))
    return values.round(4 + max(0, -math.ceil(math.log10(most)) if most else 0))


def _lines(
    rows: pd.DataFrame,
    values: npt.NDArray[np.float64],
    heights: npt.NDArray[np.float64],
    group: int,
) -> go.Scatter:
    count, axes = values.shape
    thin = 0.5 if count > _MANY else 1
    shown = np.column_stack([_rounded(column) for column in values.T]).tolist()
    lines = zip(rows.index, rows["trial"], shown, heights.round(4), strict=True)
    return go.Scatter(
        **style.with_gaps(
            (range(axes), line, [[int(row), int(trial), value] for value in own])
            for row, trial, own, line in lines
        ),
        mode="lines",
        line={"width": (1.6 if group == 0 else 1) * thin, "color": style.LOSS_COLOURS[group]},
        connectgaps=False,
        name=_GROUPS[group],
        hovertemplate="trial %{customdata[1]}<br>%{customdata[2]}<extra></extra>",
        meta=f"loss-{group}",
    )
