"""Values of a knob along the Pareto front."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from qsearch.space.configuration import Knob
from qsearch_reports.figures import style

_MAX_LABELS = 14
_OUTLINE = "rgba(128,128,128,0.7)"
"""About every part of a bar: the darkest colour is hardly seen on a dark ground."""


def marginals_figure(frame: pd.DataFrame, knob: Knob) -> go.Figure:
    """Draw how the quantized weights divide among a knob's values, along the Pareto front."""
    figure = style.new_figure(f"{style.escape(knob.name, 40)} along the Pareto front")
    if frame.empty:
        return style.note(figure, "no configuration has been evaluated yet")
    colours = style.value_colours(len(knob.values))
    for place, value in enumerate(knob.values):
        rows, name = frame[frame["place"] == place], style.template_text(str(value))
        figure.add_bar(
            x=list(range(len(rows))),
            y=rows["share"].round(5),
            marker={"color": colours[place], "line": {"width": 0.5, "color": _OUTLINE}},
            name=name,
            customdata=style.details(rows.round(4), "row", "trial", "average_bits"),
            hovertemplate="trial %{customdata[1]}, average bits %{customdata[2]}<br>"
            f"{style.template_text(knob.name)} {name}: %{{y:.1%}}<extra></extra>",
            meta=f"value-{place}",
        )
    bits = frame.drop_duplicates("row")["average_bits"].tolist()
    step = -(-len(bits) // _MAX_LABELS)
    figure.update_layout(
        barmode="stack",
        bargap=0.12,
        legend={"title": {"text": style.escape(knob.name, 20)}, "traceorder": "normal"},
    )
    figure.update_xaxes(
        title_text="average bits of the configurations on the overall Pareto front",
        tickvals=list(range(0, len(bits), step)),
        ticktext=[f"{value:.2f}" for value in bits[::step]],
        showgrid=False,
    )
    figure.update_yaxes(title_text="share of quantized weights", tickformat=".0%", range=[0, 1])
    return figure
