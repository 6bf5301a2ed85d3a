"""What all figures have in common: colours, template, and text that Plotly draws as it is."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from qsearch.evaluation import Metric

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


def new_figure(title: str) -> go.Figure:
    return go.Figure(layout={"template": _TEMPLATE, "title": {"text": title}})


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


def template_text(text: str) -> str:
    """Escape a name for use inside a hover template, where braces are also read."""
    return escape(text, 40).replace("{", "&#123;").replace("}", "&#125;")


def value_title(value: str, metric: Metric) -> str:
    """Return the axis title of ``loss`` or ``metric``."""
    if value == "loss":
        return "loss (nats)"
    return f"{escape(metric.name, 40)} ({metric.better} is better)"


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


def study_style(place: int, name: str) -> dict[str, Any]:
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


def vertical(x: float, name: str) -> dict[str, Any]:
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


def round_axis(figure: go.Figure, rounds: pd.Series) -> None:
    figure.update_xaxes(title_text="round", tickformat="d")
    if rounds.nunique() <= 12:
        figure.update_xaxes(tickvals=sorted(set(rounds)))
