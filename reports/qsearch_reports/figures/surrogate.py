"""How well the surrogate predicted the observed losses."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from qsearch_reports.figures import style
from qsearch_reports.texts import in_unit

_INTERVAL = 1.96
"""Standard deviations on either side of a mean that hold 95 % of a normal distribution."""

_NOTHING = "the surrogate predicted no loss: there was no search"


def predictions_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw observed against predicted losses, with the 95 % interval of each prediction."""
    unit = str(frame.attrs["loss_unit"])
    x = in_unit("loss predicted before the evaluation", unit)
    y = in_unit("observed loss", unit)
    figure = style.new_figure("Observed against predicted loss", x, y)
    if frame.empty:
        return style.note(figure, _NOTHING)
    both = frame[["predicted", "observed"]]
    ends = [float(both.min().min()), float(both.max().max())]
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": style.COLOURS["front"], "width": 1.5, "dash": "dash"},
        name="observed as predicted",
        hoverinfo="skip",
        meta="front",
    )
    is_outside = frame["error"].abs() > _INTERVAL
    for part, name, symbol, rows in (
        ("line", "within 95 % interval", "circle", frame[~is_outside]),
        ("outside", "outside", "diamond", frame[is_outside]),
    ):
        if rows.empty:
            continue
        values = rows.fillna({"error": 0.0})
        form = style.number_format(rows["observed"])
        figure.add_scatter(
            x=rows["predicted"],
            y=rows["observed"],
            error_x={
                "type": "data",
                "array": _INTERVAL * rows["std"],
                "thickness": 0.8,
                "width": 0,
                "color": style.COLOURS[part],
            },
            mode="markers",
            marker={"size": 7, "symbol": symbol, "color": style.COLOURS[part]},
            name=name,
            customdata=style.details(values, "row", "trial", "round", "std", "error"),
            hovertemplate="trial %{customdata[1]}, round %{customdata[2]}<br>"
            f"predicted %{{x:{form}}} ± %{{customdata[3]:{form}}}<br>observed %{{y:{form}}}<br>"
            "%{customdata[4]:+.2f} standard deviations<extra></extra>",
            meta=part,
        )
    style.caption(figure, _sum_up(frame))
    return figure


def calibration_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw how often observations lay within intervals against how often they were said to."""
    x = "claimed probability of the interval"
    figure = style.new_figure("Calibration of the surrogate", x, "share within")
    if frame.empty:
        return style.note(figure, _NOTHING)
    level = frame["level"].tolist()
    figure.add_scatter(
        x=[*level, *level[::-1]],
        y=[*frame["low"], *frame["high"][::-1]],
        mode="lines",
        fill="toself",
        fillcolor=style.BAND_COLOUR,
        line={"width": 0},
        name="95 % limits",
        hoverinfo="skip",
        meta="band",
    )
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": style.COLOURS["front"], "width": 1.5, "dash": "dash"},
        name="as claimed",
        hoverinfo="skip",
        meta="front",
    )
    figure.add_scatter(
        x=level,
        y=frame["share"],
        mode="lines+markers",
        line={"color": style.COLOURS["line"], "width": 2},
        marker={"size": 7, "color": style.COLOURS["line"]},
        name="observed",
        text=[
            f"{low:.1%} to {high:.1%} of {n}"
            for low, high, n in zip(frame["low"], frame["high"], frame["n"], strict=True)
        ],
        hovertemplate="central %{x:.0%} intervals<br>hold %{y:.1%} of the losses<br>"
        "95 % limits %{text}<extra></extra>",
        meta="line",
    )
    figure.update_xaxes(tickformat=".0%", range=[0, 1.01])
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02])
    # Room for half of the label at 100 %.
    return figure.update_layout(margin_r=28)


def _sum_up(frame: pd.DataFrame) -> str:
    """Return what sums up predictions, as a line of text."""
    error = f"{frame.attrs['rmse']:.3g} {frame.attrs['loss_unit']}".strip()
    parts = [f"root mean square error {error}"]
    if not math.isnan(frame.attrs["rank_correlation"]):
        parts.append(f"rank correlation {frame.attrs['rank_correlation']:.2f}")
    if not math.isnan(frame.attrs["coverage"]):
        parts.append(f"{frame.attrs['coverage']:.0%} within 95 % intervals")
    return f"{'; '.join(parts)} (n = {frame.attrs['n']})"
