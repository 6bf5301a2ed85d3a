"""What a study did when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from qsearch_reports.figures import style

_PHASES = {
    "training": "#B5679A",
    "measuring sensitivity": "#9A7D18",
    "evaluating the set": "#3B8FC2",
    "searching": "#2E9E7A",
    "evaluating candidates": "#5C77D6",
}
"""Colours of phases, on any ground."""

_OTHER = "#7A8594"
"""Colour of the phases that are brief."""

_MIN = 0.001
"""Share of the whole time that a bar is long at least, since a shorter one could not be seen."""

_MAX_LANES = 12
"""Lanes up to which each is labelled."""


def timeline_figure(timeline: pd.DataFrame, phases: pd.DataFrame) -> go.Figure:
    """Draw evaluations as bars over time, failed ones as crosses, and phases above them."""
    x = "minutes of running (without breaks between sessions)"
    figure = style.new_figure("Time line", x, "evaluations at once")
    known = timeline[timeline["end"].notna()]
    lacking = len(timeline) - len(known)
    if known.empty and phases.empty:
        return style.note(
            figure,
            "the log has no times of evaluations" if lacking else "nothing was run yet",
        )
    lanes = int(known["lane"].max()) + 1 if len(known) else 0
    thickness = min(14.0, 240 / (lanes + 1))
    shortest = _MIN * float(pd.concat([known["end"], phases["end"]]).max())
    names = phases["phase"].where(phases["phase"].isin(list(_PHASES)), "other")
    for name in dict.fromkeys(names):
        figure.add_trace(_phase(phases[names == name], name))
    completed = known[known["status"] == "completed"]
    for part, word, rows in style.by_seen(completed):
        figure.add_trace(_bars(rows, part, word or "evaluation", thickness, shortest))
    failed = known[known["status"] == "failed"]
    if len(failed):
        figure.add_trace(_crosses(failed))
    step = -(-lanes // _MAX_LANES)
    shown = list(range(0, lanes, step)) if lanes else []
    figure.update_yaxes(
        range=[lanes - 0.4, -1.6],
        tickvals=[-1, *shown],
        ticktext=["phases", *(str(lane + 1) for lane in shown)],
        showgrid=False,
    )
    if lacking:
        style.caption(figure, f"no times in the log for {lacking} others")
    return figure


def _lines(
    rows: pd.DataFrame, heights: Iterable[float], shown: Sequence[Any], points: int
) -> dict[str, Any]:
    """Return horizontal lines with gaps between, each of some points that all have its details."""
    lines = zip(rows["start"], rows["end"], heights, shown, strict=True)
    return style.with_gaps(
        (np.linspace(start, end, points).round(4), [height] * points, [detail] * points)
        for start, end, height, detail in lines
    )


def _bars(
    rows: pd.DataFrame, part: str, name: str, thickness: float, shortest: float
) -> go.Scatter:
    long_enough = rows.assign(start=rows["start"].clip(upper=rows["end"] - shortest))
    shown = style.details(rows.round({"seconds": 3}), "row", "trial", "round", "seconds")
    return go.Scatter(
        **_lines(long_enough, rows["lane"], shown, 2),
        mode="lines",
        line={"width": thickness, "color": style.COLOURS[part], "simplify": False},
        name=name,
        hovertemplate="trial %{customdata[1]}, round %{customdata[2]}<br>"
        f"{name}<br>%{{customdata[3]}} s, at %{{x:.2f}} min<extra></extra>",
        meta=part,
    )


def _crosses(rows: pd.DataFrame) -> go.Scatter:
    return go.Scatter(
        x=rows["end"].round(4),
        y=rows["lane"],
        mode="markers",
        marker={"symbol": "x", "size": 10, "color": style.COLOURS["failed"]},
        name="failed",
        customdata=[
            [-1, trial, number, style.escape(reason, 80)]
            for trial, number, reason in style.details(rows, "trial", "round", "reason")
        ],
        hovertemplate="trial %{customdata[1]}, round %{customdata[2]} failed<br>"
        "%{customdata[3]}<br>at %{x:.2f} min<extra></extra>",
        meta="failed",
    )


def _phase(rows: pd.DataFrame, name: str) -> go.Scatter:
    described = rows.assign(
        phase=[style.escape(kind, 40) for kind in rows["phase"]],
        seconds=((rows["end"] - rows["start"]) * 60).round(2),
        how=["" if is_complete else ", not finished" for is_complete in rows["complete"]],
    )
    shown = style.details(described, "round", "phase", "seconds", "how")
    return go.Scatter(
        # Labels come up near points, so a long phase has some on its way.
        **_lines(rows, [-1.0] * len(rows), shown, 9),
        mode="lines",
        line={"width": 14, "color": _PHASES.get(name, _OTHER), "simplify": False},
        name=name,
        hovertemplate="%{customdata[1]}, round %{customdata[0]}<br>"
        "%{customdata[2]} s%{customdata[3]}<extra></extra>",
        meta="round-phase",
    )
