"""What all figures have in common: colours, template, and text that Plotly draws as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from qsearch._text import SMALL
from qsearch.plugins.evaluation import Metric
from qsearch_reports.texts import in_unit

COLOURS = {
    "seen": "#0072B2",
    "unseen": "#C2500A",
    "front": "#6B7684",
    "segment": "rgba(100,116,139,0.4)",
    "line": "#0072B2",
    "outside": "#C2500A",
    "failed": "#B3261E",
}
"""Colour of each part on a light ground; Okabe and Ito's blue and a darker vermillion."""

LOSS_COLOURS = ("#0072B2", "#4A90BF", "#B8860B", "#C2500A")
"""Colours of parts of the losses, from the least to the greatest."""

STUDY_COLOURS = ("#0072B2", "#C2500A", "#00805A", "#A8568B", "#8A6D00", "#3B9AC9")

STUDY_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")

LAYER_COLOURS = (*STUDY_COLOURS, "#5B6470", "#B3261E")
"""Colours of roles, in model order; those that follow share the colour of the front."""

LAYER_SYMBOLS = (*STUDY_SYMBOLS, "triangle-down", "pentagon")

BAND_COLOUR = "rgba(86,156,214,0.28)"
"""Colour of a band of uncertainty, on any ground."""

OUTCOME_COLOURS = {"win": "#0072B2", "tie": "#6B7787", "loss": "#C2500A"}
"""Of a method against another; legible under white text."""

STUDY_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

_TEMPLATE = go.layout.Template(
    layout={
        "font": {
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif",
            "size": 13,
            "color": "#1f2937",
        },
        "title": {"x": 0, "xanchor": "left", "y": 0.985, "yanchor": "top", "font": {"size": 16}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 62, "r": 16, "t": 84, "b": 52},
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


def new_figure(title: str, x: str = "", y: str = "") -> go.Figure:
    """Return an empty figure in the style of all; ``x`` and ``y`` are titles of its axes."""
    axes = {"xaxis_title_text": x or None, "yaxis_title_text": y or None}
    return go.Figure(layout={"template": _TEMPLATE, "title": {"text": title}, **axes})


def note(figure: go.Figure, text: str) -> go.Figure:
    """Say in an empty figure what is missing, in the place of axes."""
    figure.add_annotation(
        text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 14}
    )
    return figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})


def caption(figure: go.Figure, text: str) -> None:
    """Write what sums a plot up under its title."""
    figure.update_layout(title_subtitle={"text": text, "font": {"size": 12}}, margin_t=104)


def details(rows: pd.DataFrame, *columns: str) -> list[list[Any]]:
    """Return columns of a table as ``customdata``: a list of plain values for each row."""
    values: list[list[Any]] = rows[list(columns)].astype(object).to_numpy().tolist()
    return values


def with_gaps(stretches: Iterable[tuple[Iterable[Any], ...]]) -> dict[str, Any]:
    """Return ``x``, ``y`` and ``customdata`` of a line that is broken after each stretch of points.

    A stretch has its coordinates and details; a gap has no coordinates, and −1 as row number.
    """
    made: dict[str, list[Any]] = {"x": [], "y": [], "customdata": []}
    for stretch in stretches:
        for values, own, gap in zip(made.values(), stretch, (None, None, [-1]), strict=True):
            values += [*own, gap]
    return made


def escape(text: object, limit: int | None = None) -> str:
    """Return text that Plotly draws as it is, though it reads tags and entities in text."""
    plain = " ".join(str(text).split())
    if limit is not None and len(plain) > limit:
        plain = plain[: limit - 1] + "…"
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def template_text(text: str) -> str:
    """Escape a name for use inside a hover template, where braces are also read."""
    return escape(text, 40).replace("{", "&#123;").replace("}", "&#125;")


def value_title(value: str, metric: Metric | None, unit: str = "nats") -> str:
    """Return the axis title of ``loss``, which has a unit, or ``metric``."""
    if value == "loss" or metric is None:
        return in_unit("loss", unit)
    return f"{escape(metric.name, 40)} ({metric.better} is better)"


def number_format(values: pd.Series) -> str:
    """Return how hover labels show values: with four decimals, or four digits if some are small."""
    sizes = values.abs()
    return ".4~g" if (sizes[sizes > 0] < SMALL).any() else ".4f"


def by_seen(rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Return evaluations as parts that are drawn alike: part, word for it, and its rows.

    Where nothing is trained, all are one part, and the word is "".
    """
    if rows["seen"].isna().all():
        parts = [("seen", "", rows)]
    else:
        seen = rows["seen"].astype(bool)
        parts = [("seen", "seen", rows[seen]), ("unseen", "unseen", rows[~seen])]
    return [part for part in parts if len(part[2])]


def stepped_colorscale(count: int) -> list[tuple[float, str]]:
    """Return a colour scale with one flat, colour-blind safe colour per value."""
    return stepped(value_colours(count))


def stepped(colours: Sequence[str]) -> list[tuple[float, str]]:
    """Return a colour scale of flat colours, each as wide as the others."""
    count = len(colours)
    ends = [(place, place + 1) for place in range(count)]
    return [(end / count, colours[pair[0]]) for pair in ends for end in pair]


def value_colours(count: int) -> list[str]:
    """Return one colour per knob value, from light for the first to dark for the last."""
    places = [0.5] if count == 1 else [0.96 - 0.9 * i / (count - 1) for i in range(count)]
    return [str(colour) for colour in sample_colorscale("Viridis", places)]


def study_style(place: int, name: str) -> dict[str, Any]:
    """Return how the study or method at a place is drawn; no other up to the 36th looks so."""
    again, place = divmod(place, len(STUDY_COLOURS))
    # Where colours come round again, they meet other symbols and dashes than before.
    other = (place + again) % len(STUDY_COLOURS)
    colour, symbol, dash = STUDY_COLOURS[place], STUDY_SYMBOLS[other], STUDY_DASHES[other]
    return {
        "mode": "lines+markers",
        "name": template_text(name),
        "marker": {"symbol": symbol, "size": 7, "color": colour},
        "line_color": colour,
        "line_dash": dash,
        "line_width": 2,
        "meta": f"study-{place}",
    }


def vertical(x: float, name: str) -> dict[str, Any]:
    """Return a dotted vertical line, as a shape of a part's colour."""
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


def round_axis(figure: go.Figure, rounds: pd.Series) -> go.Figure:
    few = sorted(set(rounds)) if rounds.nunique() <= 12 else None
    return figure.update_xaxes(tickformat="d", tickvals=few)
