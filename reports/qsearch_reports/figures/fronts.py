"""Loss, or task metric, against size, with Pareto front and segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from qsearch._text import with_error
from qsearch.plugins.evaluation import Metric
from qsearch.plugins.footprint import Footprint
from qsearch.storage.study_record import Size, StudyRecord
from qsearch_reports.figures import style
from qsearch_reports.frames.points import front_frame, latest_points, loss_unit, points_frame
from qsearch_reports.frames.sizes import segment_edges

_MANY = 1000
"""Points beyond which dominated ones have no bars: they would hide the front, and take longer to
draw than the points."""

_SIZES = {
    "average_bits": ("average bits", "average bits per quantized weight"),
    "bytes": ("file size", "weight files, adapter and all else included"),
}
"""How a size is called in a title, and at its axis."""

SYMBOLS = {"seen": "circle", "unseen": "diamond"}
"""Marker of seen and of unseen configurations; where nothing is trained, all are as if seen."""


_PADDING = 0.04
"""Share of a range that is left free on either side of the points."""


@dataclass(frozen=True)
class Ranges:
    """Ranges of a front's axes, so that the fronts of several rounds compare."""

    x: tuple[float, float]
    y: tuple[float, float]


def front_ranges(
    points: pd.DataFrame, value: str = "loss", size: Size = "average_bits"
) -> Ranges | None:
    """Return ranges that hold some points with their error bars; None if there is no point."""
    known = points[points[value].notna() & points[size].notna()]
    if known.empty:
        return None
    error = known["standard_error" if value == "loss" else "metric_standard_error"].fillna(0.0)
    return Ranges(
        _padded(known[size].min(), known[size].max()),
        _padded((known[value] - error).min(), (known[value] + error).max()),
    )


def _padded(low: float, high: float) -> tuple[float, float]:
    width = float(high - low) or abs(float(high)) or 1.0
    return float(low - _PADDING * width), float(high + _PADDING * width)


def latest_front_figure(record: StudyRecord, footprint: Footprint | None = None) -> go.Figure:
    """Draw the losses of a study's last finished round against its size, bytes where known."""
    points, edges = latest_points(points_frame(record)), segment_edges(record, footprint)
    size: Size = record.size if record.size in edges else "average_bits"
    return front_figure(points, edges[size], record.metric, unit=loss_unit(record), size=size)


def front_figure(
    points: pd.DataFrame,
    edges: Sequence[float],
    metric: Metric | None,
    value: str = "loss",
    ranges: Ranges | None = None,
    unit: str = "nats",
    size: Size = "average_bits",
) -> go.Figure:
    """Draw loss or metric against size, with the front and the segments, whose edges are sizes.

    The Pareto front of losses is that of estimated ones where they are known; markers are at what
    was observed. Bars are standard errors; of more than 1,000 points, those on a segment's front
    have them. ``unit`` is that of the loss; "" if it is not known.
    """
    rounds = points["round"].unique()
    of_round = f", round {int(rounds[0])}" if len(rounds) == 1 else ""
    what = "Loss" if value == "loss" else "Task metric"
    name, axis = _SIZES[size]
    title, unit = f"{what} against {name}{of_round}", style.value_title(value, metric, unit)
    figure = style.new_figure(title, axis, unit)
    if size == "bytes":
        figure.update_xaxes(tickformat="~s", ticksuffix="B")
    if points[value].isna().all():
        return style.note(figure, "no configuration has been evaluated yet")
    higher = value == "metric" and metric is not None and metric.better == "higher"
    selection = "selection_loss" if value == "loss" else value
    front = front_frame(points, selection, higher=higher)
    is_estimated = value == "loss" and points["estimated_loss"].notna().any()
    figure.add_scatter(
        x=front[size],
        y=front[selection],
        mode="lines",
        line={"shape": "hv", "width": 1.5, "color": style.COLOURS["front"]},
        name="overall Pareto front, estimated loss" if is_estimated else "overall Pareto front",
        hoverinfo="skip",
        meta="front",
    )
    for on_front in (False, True):
        for part, word, rows in style.by_seen(points[points["on_front"] == on_front]):
            figure.add_trace(_markers(rows, value, metric, size, part, word, on_front=on_front))
            if len(points) > _MANY and not on_front:
                figure.data[-1].error_y = None
    if len(points) > _MANY:
        style.caption(figure, "Error bars only for points on segment fronts")
    if ranges is not None:
        figure.update_xaxes(range=ranges.x)
        figure.update_yaxes(range=ranges.y)
    figure.update_layout(shapes=[style.vertical(edge, "segment") for edge in edges])
    return figure


def _markers(
    rows: pd.DataFrame,
    value: str,
    metric: Metric | None,
    size: Size,
    part: str,
    word: str,
    *,
    on_front: bool,
) -> go.Scatter:
    error = "standard_error" if value == "loss" else "metric_standard_error"
    colour = style.COLOURS[part]
    place = "on segment front" if on_front else "" if word else "dominated in its segment"
    name = ", ".join(filter(None, (word, place)))
    estimates = style.details(rows, "estimated_loss", "estimated_loss_std")
    shown = rows.assign(
        row=rows.index,
        estimate=[_estimated_text(*estimate) for estimate in estimates],
        method=[style.escape(method, 60) for method in rows["method"]],
    )
    measured = ("loss", "standard_error", "metric", "metric_standard_error")
    of_files = " (%{x:.4s}B)" if size == "bytes" else ""
    of_metric = ""
    if metric is not None:
        called = style.template_text(metric.name)
        of_metric = f"{_measured_text(rows, 'metric', 'metric_standard_error', 5, called)}<br>"
    return go.Scatter(
        x=rows[size],
        y=rows[value],
        error_y={
            "type": "data",
            "array": rows[error],
            "thickness": 1.3 if on_front else 0.8,
            "width": 0,
            "color": colour,
        },
        mode="markers",
        opacity=1.0 if on_front else 0.7,
        marker={
            "symbol": SYMBOLS[part] if on_front else f"{SYMBOLS[part]}-open",
            "size": 10 if on_front else 7,
            "color": colour,
            "line": {"width": 1, "color": colour},
        },
        name=name,
        customdata=style.details(
            shown, "row", "trial", "round", *measured, "method", "estimate", "average_bits"
        ),
        hovertemplate="trial %{customdata[1]}, round %{customdata[2]}<br>"
        f"average bits %{{customdata[9]:.4f}}{of_files}<br>"
        f"{_measured_text(rows, 'loss', 'standard_error', 3, 'loss')}%{{customdata[8]}}<br>"
        f"{of_metric}{name}<br>by %{{customdata[7]}}<extra></extra>",
        meta=part,
    )


def _measured_text(rows: pd.DataFrame, value: str, error: str, place: int, name: str) -> str:
    """Return what the hover label says of a value, with its error if any has one."""
    form = style.number_format(rows[value])
    text = f"{name} %{{customdata[{place}]:{form}}}"
    has_error = (rows[error] > 0).any()
    return f"{text} ± %{{customdata[{place + 1}]:{form}}}" if has_error else text


def _estimated_text(mean: float, std: float) -> str:
    """Return what the hover label says of an estimated loss, if there is one."""
    return "" if pd.isna(mean) else f"<br>estimated loss {with_error(mean, std)}"
