"""Frames to Plotly figures: each takes a table of :mod:`qsearch_reports.frames`.

A figure is complete by itself (title, axes with units, light colours). Traces and shapes carry
a part name (``meta`` of a trace, ``name`` of a shape) by which the report page recolours them
for a dark screen and finds them to mark a selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from qsearch.configuration import Knob
from qsearch.evaluation import Metric
from qsearch_reports.frames import front_frame

COLOURS = {
    "seen": "#0072B2",
    "unseen": "#C2500A",
    "front": "#6B7684",
    "selected": "#111827",
    "segment": "rgba(100,116,139,0.4)",
    "budget": "#7A3E9D",
    "line": "#0072B2",
}
"""Colour of each part on a light ground; Okabe and Ito's blue and a darker vermillion."""

STUDY_COLOURS = ("#0072B2", "#C2500A", "#00805A", "#A8568B", "#8A6D00", "#3B9AC9")
STUDY_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
STUDY_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

SYMBOLS = {True: "circle", False: "diamond"}
"""Marker of seen and of unseen configurations."""

_TEMPLATE = go.layout.Template(
    layout={
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif",
            "size": 13,
            "color": "#1f2937",
        },
        "title": {"x": 0, "xanchor": "left", "font": {"size": 16}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 62, "r": 16, "t": 48, "b": 52},
        "hoverlabel": {"align": "left"},
        "hovermode": "closest",
        "dragmode": "zoom",
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        **{
            axis: {
                "gridcolor": "rgba(100,116,139,0.16)",
                "zeroline": False,
                "linecolor": "rgba(100,116,139,0.5)",
                "showline": True,
                "ticks": "outside",
                "ticklen": 4,
                "tickcolor": "rgba(100,116,139,0.5)",
                "automargin": True,
                "title": {"standoff": 10},
            }
            for axis in ("xaxis", "yaxis")
        },
    }
)


def escape(text: object, limit: int | None = None) -> str:
    """Return text that Plotly draws as it is, though it reads tags and entities in text.

    Args:
        text: Anything; line breaks become spaces.
        limit: Longer text is cut to this many characters, the last an ellipsis.
    """
    plain = " ".join(str(text).split())
    if limit is not None and len(plain) > limit:
        plain = plain[: limit - 1] + "…"
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def value_title(value: str, metric: Metric) -> str:
    """Return the axis title of ``loss`` or ``metric``."""
    if value == "loss":
        return "loss (nats)"
    return f"{escape(metric.name, 40)} ({metric.better} is better)"


def front_figure(
    points: pd.DataFrame, edges: Sequence[float], metric: Metric, value: str = "loss"
) -> go.Figure:
    """Draw loss or metric against average bits, with the front and the segments.

    The front of losses is that of expected ones where they are known, drawn at what is expected;
    markers are at what was observed.

    Args:
        points: Rows of :func:`~qsearch_reports.frames.points_frame`, of one round; each
            marker's ``customdata`` begins with its row number.
        edges: Segment edges, average bits.
        metric: The task metric.
        value: ``loss`` or ``metric``.
    """
    figure = _figure(f"{'Loss' if value == 'loss' else 'Task metric'} against average bits")
    higher = value == "metric" and metric.better == "higher"
    decisive = "decisive_loss" if value == "loss" else value
    front = front_frame(points, decisive, higher=higher)
    is_expected = value == "loss" and points["expected_loss"].notna().any()
    figure.add_scatter(
        x=front["average_bits"],
        y=front[decisive],
        mode="lines",
        line={"shape": "hv", "width": 1.5, "color": COLOURS["front"]},
        name="overall front, expected loss" if is_expected else "overall front",
        hoverinfo="skip",
        meta="front",
    )
    for on_front in (False, True):
        for seen in (True, False):
            rows = points[(points["seen"] == seen) & (points["on_front"] == on_front)]
            if not rows.empty:
                figure.add_trace(_markers(rows, value, metric, seen=seen, on_front=on_front))
    figure.add_scatter(
        x=[],
        y=[],
        mode="markers",
        marker={
            "size": 19,
            "symbol": "circle-open",
            "color": COLOURS["selected"],
            "line": {"width": 3},
        },
        name="selected",
        hoverinfo="skip",
        showlegend=False,
        meta="selected",
    )
    figure.update_xaxes(title_text="average bits per quantized weight")
    figure.update_yaxes(title_text=value_title(value, metric))
    figure.update_layout(shapes=[_vertical(edge, "segment") for edge in edges])
    return figure


def hypervolume_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw hypervolume by round, from :func:`~qsearch_reports.frames.hypervolume_frame`."""
    figure = _figure("Hypervolume by round")
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
    _round_axis(figure, frame["round"])
    figure.update_yaxes(title_text="hypervolume (normalised)")
    return figure


def training_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw training loss by step, from :func:`~qsearch_reports.frames.training_frame`."""
    figure = _figure("Training loss by round")
    starts: list[dict[str, Any]] = []
    for number in frame["round"].unique().astype(int):
        rows = frame[frame["round"] == number]
        starts.append(_vertical(float(rows["step"].iloc[0]), "segment"))
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


def heatmap_figure(frame: pd.DataFrame, knob: Knob) -> go.Figure:
    """Draw one knob of a configuration by role and block.

    Args:
        frame: Values by role and block, from :func:`~qsearch_reports.layer_frames.heatmap_frame`.
        knob: The knob; each of its values has a colour, in order.
    """
    places = [
        [None if cell is None else knob.index(cell) for cell in row]
        for row in frame.to_numpy(dtype=object)
    ]
    labels = [["" if cell is None else escape(cell) for cell in row] for row in frame.to_numpy()]
    figure = _figure(f"{escape(knob.name, 40)} by layer")
    figure.add_heatmap(
        x=[str(block) for block in frame.columns],
        y=list(range(len(frame.index))),
        z=places,
        customdata=labels,
        zmin=-0.5,
        zmax=len(knob.values) - 0.5,
        colorscale=stepped_colorscale(len(knob.values)),
        colorbar={
            "tickvals": list(range(len(knob.values))),
            "ticktext": [escape(value, 20) for value in knob.values],
            "title": {"text": escape(knob.name, 20)},
        },
        xgap=2,
        ygap=2,
        text=[[escape(role)] * len(frame.columns) for role in frame.index],
        hovertemplate=f"block %{{x}}<br>%{{text}}<br>{_template_text(knob.name)} %{{customdata}}"
        "<extra></extra>",
        hoverongaps=False,
        meta="heatmap",
    )
    figure.update_xaxes(title_text="block", type="category", showgrid=False, showline=False)
    figure.update_yaxes(
        autorange="reversed",
        tickvals=list(range(len(frame.index))),
        ticktext=[escape(role, 24) for role in frame.index],
        showgrid=False,
        showline=False,
        ticks="",
    )
    return figure


def stepped_colorscale(count: int) -> list[tuple[float, str]]:
    """Return a colour scale with one flat, colour-blind safe colour per value."""
    colours = value_colours(count)
    steps: list[tuple[float, str]] = []
    for place, colour in enumerate(colours):
        steps += [(place / count, colour), ((place + 1) / count, colour)]
    return steps


def value_colours(count: int) -> list[str]:
    """Return one colour per knob value, from light for the first to dark for the last."""
    places = [0.5] if count == 1 else [0.96 - 0.9 * i / (count - 1) for i in range(count)]
    return [str(colour) for colour in sample_colorscale("Viridis", places)]


def fronts_figure(fronts: Sequence[tuple[str, pd.DataFrame]], label: str) -> go.Figure:
    """Overlay the overall fronts of several studies.

    Args:
        fronts: Each study's name and its front's ``average_bits`` and ``value``.
        label: Title of the value axis, with its unit.
    """
    figure = _figure("Fronts of the studies")
    for place, (name, front) in enumerate(fronts):
        figure.add_scatter(
            x=front["average_bits"],
            y=front["value"],
            line={"shape": "hv"},
            customdata=[[escape(name)]] * len(front),
            hovertemplate="%{customdata[0]}<br>average bits %{x:.3f}<br>value %{y:.4f}"
            "<extra></extra>",
            **_study_style(place, name),
        )
    figure.update_xaxes(title_text="average bits per quantized weight")
    figure.update_yaxes(title_text=label)
    return figure


def comparison_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw hypervolume by round of several studies, from
    :func:`~qsearch_reports.frames.comparison_frame`.
    """  # noqa: D205
    figure = _figure("Hypervolume by round, same reference point")
    for place, (name, rows) in enumerate(frame.groupby("study", sort=False)):
        figure.add_scatter(
            x=rows["round"],
            y=rows["hypervolume"],
            customdata=[[escape(name)]] * len(rows),
            hovertemplate="%{customdata[0]}<br>round %{x}<br>hypervolume %{y:.4f}<extra></extra>",
            **_study_style(place, str(name)),
        )
    _round_axis(figure, frame["round"])
    figure.update_yaxes(title_text="hypervolume (normalised)")
    return figure


def _figure(title: str) -> go.Figure:
    return go.Figure(layout={"template": _TEMPLATE, "title": {"text": title}})


def _study_style(place: int, name: str) -> dict[str, Any]:
    place %= len(STUDY_COLOURS)
    colour, symbol, dash = STUDY_COLOURS[place], STUDY_SYMBOLS[place], STUDY_DASHES[place]
    return {
        "mode": "lines+markers",
        "name": escape(name, 40),
        "marker": {"symbol": symbol, "size": 7, "color": colour},
        "line_color": colour,
        "line_dash": dash,
        "line_width": 2,
        "meta": f"study-{place}",
    }


def _markers(
    rows: pd.DataFrame, value: str, metric: Metric, *, seen: bool, on_front: bool
) -> go.Scatter:
    error = "standard_error" if value == "loss" else "metric_standard_error"
    part = "seen" if seen else "unseen"
    colour = COLOURS[part]
    name = f"{part}, on segment front" if on_front else part
    shown = ["trial", "round", "loss", "standard_error", "metric", "metric_standard_error"]
    figures = rows[shown].round(6).itertuples(index=False, name=None)
    expected = zip(rows["expected_loss"], rows["expected_loss_deviation"], strict=True)
    details = [
        [int(number), *row, escape(method, 60), _expected_text(*figure)]
        for number, row, method, figure in zip(
            rows.index, figures, rows["method"], expected, strict=True
        )
    ]
    return go.Scatter(
        x=rows["average_bits"],
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
            "symbol": SYMBOLS[seen] if on_front else f"{SYMBOLS[seen]}-open",
            "size": 10 if on_front else 7,
            "color": colour,
            "line": {"width": 1, "color": colour},
        },
        name=name,
        customdata=details,
        hovertemplate="trial %{customdata[1]}, round %{customdata[2]}<br>"
        "average bits %{x:.4f}<br>"
        "loss %{customdata[3]:.4f} ± %{customdata[4]:.4f}%{customdata[8]}<br>"
        f"{_template_text(metric.name)} %{{customdata[5]:.4f}} ± %{{customdata[6]:.4f}}<br>"
        f"{name}<br>by %{{customdata[7]}}<extra></extra>",
        meta=part,
    )


def _expected_text(mean: float, deviation: float) -> str:
    """Return what the hover label says of an expected loss, if there is one."""
    return "" if pd.isna(mean) else f"<br>expected loss {mean:.4f} ± {deviation:.4f}"


def _template_text(text: str) -> str:
    """Escape a name for use inside a hover template, where braces are also read."""
    return escape(text, 40).replace("{", "&#123;").replace("}", "&#125;")


def _vertical(x: float, name: str) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "layer": "below",
        "line": {"width": 1, "dash": "dot", "color": COLOURS[name]},
        "name": name,
    }


def _round_axis(figure: go.Figure, rounds: pd.Series) -> None:
    figure.update_xaxes(title_text="round", tickformat="d")
    if rounds.nunique() <= 12:
        figure.update_xaxes(tickvals=sorted(set(rounds)))
