"""Which layers the search protects."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from qsearch_reports.figures import style
from qsearch_reports.texts import in_unit


def sensitivity_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw what each layer is given against how much it matters; a marker per layer.

    A layer whose highest score is not positive is drawn at the left end, below the least that is.
    """
    unit = str(frame.attrs["loss_unit"])
    knob, place_of = str(frame.attrs["knob"]), "place of " * (frame.attrs["unit"] == "places")
    figure = style.new_figure(
        f"Layers that the search protects: sensitivity and {style.escape(knob, 40)}",
        in_unit("predicted rise of the loss", unit or "up to a factor"),
        f"mean {place_of}{style.escape(knob, 40)}",
    )
    positive = frame.loc[frame["highest_score"] > 0, "highest_score"]
    if positive.empty:
        return style.note(figure, "the scores of layers are not known")
    least = float(positive.min()) / 3
    frame = frame.assign(
        shown=[style.escape(name, 80) for name in frame["name"]],
        shown_role=[style.escape(role, 40) for role in frame["role"]],
    )
    roles = list(dict.fromkeys(frame["role"]))
    own = len(style.LAYER_COLOURS) if len(roles) > len(style.LAYER_COLOURS) else len(roles)
    parts = [(style.escape(role, 24), [role]) for role in roles[:own]]
    if roles[own:]:
        parts.append((f"{len(roles) - own} other roles", roles[own:]))
    for place, (name, members) in enumerate(parts):
        rows = frame[frame["role"].isin(members)]
        figure.add_scatter(
            x=rows["highest_score"].clip(lower=least),
            y=rows["given"],
            mode="markers",
            marker={
                "size": 9,
                "color": style.LAYER_COLOURS[place] if place < own else style.COLOURS["front"],
                "symbol": style.LAYER_SYMBOLS[place] if place < own else "circle-open",
                "line": {"width": 1, "color": "rgba(255,255,255,0.6)"},
            },
            name=name,
            customdata=style.details(
                rows, "layer", "shown", "shown_role", "block", "parameters", "highest_score"
            ),
            hovertemplate="%{customdata[1]}<br>%{customdata[2]}, block %{customdata[3]}<br>"
            "%{customdata[4]:,} weights<br>predicted rise %{customdata[5]:.3g}"
            f" {unit}<br>mean {style.template_text(knob)} %{{y:.2f}}<extra></extra>",
            meta=f"layer-{place}",
        )
    figure.update_xaxes(type="log", exponentformat="power")
    count = int(frame.attrs["configurations"])
    of = "1 configuration" if count == 1 else f"{count} configurations"
    correlation = float(frame.attrs["rank_correlation"])
    suffix = "" if math.isnan(correlation) else f"; rank correlation {correlation:.2f}"
    style.caption(figure, f"mean over {of}{suffix}")
    return figure
