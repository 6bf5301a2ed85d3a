"""Several studies, or several methods with seeds, in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from qsearch._text import SMALL, with_error
from qsearch_reports.figures import style
from qsearch_reports.frames.outcomes import OUTCOMES
from qsearch_reports.texts import in_unit

_LETTERS = {"win": "W", "tie": "T", "loss": "L", "none": ""}
_PLACES = {"loss": -1, "tie": 0, "win": 1, "none": np.nan}
_VALUES = ("difference", "low", "high", "outcome")
_NAME = 40
_ROW_NAME = 26


def fronts_figure(methods: pd.DataFrame, studies: pd.DataFrame, label: str) -> go.Figure:
    """Overlay the Pareto fronts of methods: means, bands of several seeds, and each seed."""
    title = "Best at or under each budget, mean and 95 % interval over seeds"
    figure = style.new_figure(title, "budget (average bits)", label)
    form = style.number_format(studies["value"])
    for place, (name, rows) in enumerate(methods.groupby("method", sort=False)):
        look = style.study_style(place, str(name))
        own = studies[studies["method"] == name]
        if own["study"].nunique() > 1:
            figure.add_trace(_band(rows, look["line_color"], look["meta"]))
            figure.add_trace(_each(own, look["line_color"], look["meta"], form))
        shown = [
            [style.escape(name, _NAME), seeds, _interval(low, high)]
            for seeds, low, high in style.details(rows, "seeds", "low", "high")
        ]
        look["marker"]["maxdisplayed"] = 14
        figure.add_scatter(
            x=rows["budget"],
            y=rows["mean"],
            line={"shape": "hv"},
            customdata=shown,
            hovertemplate="%{customdata[0]}, seeds: %{customdata[1]}<br>"
            f"average bits ≤ %{{x:.3f}}<br>%{{y:{form}}}%{{customdata[2]}}<extra></extra>",
            legendgroup=str(place),
            **look,
        )
    return figure.update_yaxes(range=_value_range(methods, studies))


def _value_range(methods: pd.DataFrame, studies: pd.DataFrame) -> list[float] | None:
    """Return an axis's range that holds all values, and what lies near them of the bands.

    The interval of two seeds is 13 times as wide as what they differ by: to show the whole of it
    would flatten all else.
    """
    values = pd.concat([studies["value"], methods["mean"]]).dropna()
    if values.empty:
        return None
    least, most = float(values.min()), float(values.max())
    span = (most - least) or abs(most) or 1.0
    # A minimum of nothing is NaN, which no number is beyond.
    low = max(min(least, float(methods["low"].min())), least - span / 2)
    high = min(max(most, float(methods["high"].max())), most + span / 2)
    margin = (high - low) / 20 or span / 20
    return [low - margin, high + margin]


def _interval(low: float, high: float) -> str:
    return "" if pd.isna(low) else f"<br>95 % interval {with_error(low)} – {with_error(high)}"


def _band(rows: pd.DataFrame, colour: str, part: str) -> go.Scatter:
    """Return the area between both ends of the interval, stepped as the mean is."""
    # Stretches of budgets at which the interval is known; each is a closed outline of its own.
    known = rows["low"].notna()
    outlines = []
    for _, stretch in rows[known].groupby((~known).cumsum()[known]):
        budgets = np.repeat(stretch["budget"], 2)[1:]
        low, high = (np.repeat(stretch[name], 2)[:-1] for name in ("low", "high"))
        outlines.append(([*budgets, *budgets[::-1]], [*high, *low[::-1]], [()] * 2 * len(low)))
    return go.Scatter(
        **style.with_gaps(outlines),
        mode="lines",
        fill="toself",
        fillcolor=colour,
        line={"width": 0, "color": colour},
        opacity=0.2,
        hoverinfo="skip",
        showlegend=False,
        meta=part,
    )


def _each(studies: pd.DataFrame, colour: str, part: str, form: str) -> go.Scatter:
    """Return the fronts of single seeds as one thin trace with gaps between them."""
    seeds = studies.dropna(subset="value").groupby("study", sort=False)
    return go.Scatter(
        **style.with_gaps(
            (rows["budget"], rows["value"], [[style.escape(name, _NAME)]] * len(rows))
            for name, rows in seeds
        ),
        mode="lines",
        line={"shape": "hv", "width": 1, "color": colour},
        opacity=0.5,
        hovertemplate="%{customdata[0]}<br>average bits ≤ %{x:.3f}<br>"
        f"%{{y:{form}}}<extra></extra>",
        showlegend=False,
        meta=part,
    )


def comparison_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw hypervolume by round of several studies."""
    title = "Hypervolume by round, same reference point"
    figure = style.new_figure(title, "round", "hypervolume (normalised)")
    _add_studies(figure, frame, "round", "hypervolume", "round %{x}<br>hypervolume %{y:.4f}")
    return style.round_axis(figure, frame["round"])


def time_figure(frame: pd.DataFrame, value: str, unit: str = "nats") -> go.Figure:
    """Draw what studies had reached after some minutes of work; ``unit`` is that of losses."""
    title, unit = {
        "hypervolume": ("Hypervolume", "normalised"),
        "loss": ("Best loss within the budget", unit),
    }[value]
    x = "minutes of work"
    figure = style.new_figure(f"{title} by {x}", x, in_unit(value, unit))
    shown = frame.dropna(subset=["minutes", value])
    form = style.number_format(shown[value])
    text = f"round %{{customdata[1]}}<br>%{{x:.2f}} minutes<br>{value} %{{y:{form}}}"
    _add_studies(figure, shown, "minutes", value, text)
    return figure.update_xaxes(rangemode="tozero")


def _add_studies(figure: go.Figure, frame: pd.DataFrame, x: str, y: str, text: str) -> None:
    by = "method" if "method" in frame else "study"
    for place, (name, group) in enumerate(frame.groupby(by, sort=False)):
        for number, (study, rows) in enumerate(group.groupby("study", sort=False)):
            figure.add_scatter(
                x=rows[x],
                y=rows[y],
                customdata=[[style.escape(study, _NAME), int(round)] for round in rows["round"]],
                hovertemplate=f"%{{customdata[0]}}<br>{text}<extra></extra>",
                legendgroup=str(place),
                showlegend=number == 0,
                **style.study_style(place, str(name)),
            )


def outcomes_figure(outcomes: pd.DataFrame, method: str) -> go.Figure:
    """Draw how one method fares against the others, segment by segment."""
    rows = outcomes[outcomes["method"] == method]
    others = list(dict.fromkeys(rows["other"]))
    segments = rows[rows["other"] == others[0]] if others else rows
    by_other = [rows[rows["other"] == other] for other in others]
    spans = [f"{low:.3g} – {high:.3g}" for low, high in segments[["lower", "upper"]].to_numpy()]
    shown = [
        [
            [_outcome_text(*row), style.escape(other, _NAME), span]
            for row, span in zip(style.details(own, *_VALUES), spans, strict=True)
        ]
        for other, own in zip(others, by_other, strict=True)
    ]
    figure = style.new_figure(f"Wins of {style.template_text(method)} by segment")
    figure.add_heatmap(
        x=[*segments["lower"], *segments["upper"].tail(1)],
        y=list(range(len(others))),
        z=[[_PLACES[outcome] for outcome in own["outcome"]] for own in by_other],
        zmin=-1.5,
        zmax=1.5,
        colorscale=style.stepped([style.OUTCOME_COLOURS[name] for name in ("loss", "tie", "win")]),
        showscale=False,
        text=[[_LETTERS[outcome] for outcome in own["outcome"]] for own in by_other],
        texttemplate="%{text}",
        textfont={"color": "#ffffff"},
        customdata=shown,
        xgap=1,
        ygap=2,
        hoverongaps=False,
        hovertemplate=f"{style.template_text(method)} against %{{customdata[1]}}<br>"
        "%{customdata[2]} average bits<br>%{customdata[0]}<extra></extra>",
    )
    figure.update_xaxes(title_text="average bits", showgrid=False)
    figure.update_yaxes(
        tickvals=list(range(len(others))),
        ticktext=[f"against {style.escape(other, _ROW_NAME)}" for other in others],
        autorange="reversed",
        showgrid=False,
        ticks="",
    )
    return figure


def _outcome_text(difference: float, low: float, high: float, outcome: str) -> str:
    if outcome == "none":
        return "one of them has nothing within this budget"
    interval = "not known how sure" if pd.isna(low) else f"{_signed(low)} … {_signed(high)}"
    return f"{outcome}: difference of losses {_signed(difference)} ({interval})"


def _signed(value: float) -> str:
    return f"{value:+.4g}" if 0 < abs(value) < SMALL else f"{value:+.4f}"


def outcome_legend() -> Sequence[tuple[str, str, str]]:
    """Return the letter, word and colour of each outcome that is drawn."""
    return [
        (_LETTERS[name], name, style.OUTCOME_COLOURS[name]) for name in OUTCOMES if name != "none"
    ]
