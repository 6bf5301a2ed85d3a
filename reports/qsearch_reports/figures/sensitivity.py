"""Which layers the search protects."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from qsearch_reports.figures.style import (
    COLOURS,
    LAYER_COLOURS,
    LAYER_SYMBOLS,
    caption,
    details,
    escape,
    new_figure,
    note,
    template_text,
)


def sensitivity_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw what each layer is given against how much it matters; a marker per layer.

    A layer whose sensitivity is not positive is drawn at the left end, below the least that is.
    """
    knob, unit = str(frame.attrs["knob"]), frame.attrs["unit"]
    figure = new_figure(f"Layers that the search protects: sensitivity and {escape(knob, 40)}")
    positive = frame.loc[frame["sensitivity"] > 0, "sensitivity"]
    if positive.empty:
        return note(figure, "the sensitivities of layers are not known")
    least = float(positive.min()) / 3
    frame = frame.assign(
        shown=[escape(name, 80) for name in frame["name"]],
        shown_role=[escape(role, 40) for role in frame["role"]],
    )
    roles = list(dict.fromkeys(frame["role"]))
    own = len(LAYER_COLOURS) if len(roles) > len(LAYER_COLOURS) else len(roles)
    parts = [(escape(role, 24), [role]) for role in roles[:own]]
    if roles[own:]:
        parts.append((f"{len(roles) - own} other roles", roles[own:]))
    for place, (name, members) in enumerate(parts):
        rows = frame[frame["role"].isin(members)]
        figure.add_scatter(
            x=rows["sensitivity"].clip(lower=least),
            y=rows["given"],
            mode="markers",
            marker={
                "size": 9,
                "color": LAYER_COLOURS[place] if place < own else COLOURS["front"],
                "symbol": LAYER_SYMBOLS[place] if place < own else "circle-open",
                "line": {"width": 1, "color": "rgba(255,255,255,0.6)"},
            },
            name=name,
            customdata=details(
                rows, "layer", "shown", "shown_role", "block", "parameters", "sensitivity"
            ),
            hovertemplate="%{customdata[1]}<br>%{customdata[2]}, block %{customdata[3]}<br>"
            "%{customdata[4]:,} weights<br>sensitivity %{customdata[5]:.3g} nats<br>"
            f"mean {template_text(knob)} %{{y:.2f}}<extra></extra>",
            meta=f"layer-{place}",
        )
    figure.update_xaxes(
        title_text="predicted rise of the loss (nats)",
        type="log",
        exponentformat="power",
    )
    count = int(frame.attrs["configurations"])
    what = f"mean {'place of ' if unit == 'places' else ''}{escape(knob, 40)}"
    of = "1 configuration" if count == 1 else f"{count} configurations"
    figure.update_yaxes(title_text=what)
    correlation = float(frame.attrs["rank_correlation"])
    told = "" if math.isnan(correlation) else f"; rank correlation {correlation:.2f}"
    caption(figure, f"mean over {of}{told}")
    return figure
