"""What a study did when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from qsearch_reports.figures.style import COLOURS, caption, escape, new_figure, note

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
    figure = new_figure("Time line")
    known = timeline[timeline["end"].notna()]
    lacking = len(timeline) - len(known)
    if known.empty and phases.empty:
        return note(
            figure,
            "the log does not tell when evaluations ran" if lacking else "nothing was run yet",
        )
    lanes = int(known["lane"].max()) + 1 if len(known) else 0
    thickness = min(14.0, 240 / (lanes + 1))
    shortest = _MIN * float(pd.concat([known["end"], phases["end"]]).max())
    names = phases["phase"].where(phases["phase"].isin(list(_PHASES)), "other")
    for name in dict.fromkeys(names):
        figure.add_trace(_phase(phases[names == name], name))
    completed = known[known["status"] == "completed"]
    for seen in (True, False):
        rows = completed[completed["seen"] == seen]
        if len(rows):
            figure.add_trace(_bars(rows, "seen" if seen else "unseen", thickness, shortest))
    failed = known[known["status"] == "failed"]
    if len(failed):
        figure.add_trace(_crosses(failed))
    step = -(-lanes // _MAX_LANES)
    shown = list(range(0, lanes, step)) if lanes else []
    figure.update_xaxes(title_text="minutes of running (without breaks between sessions)")
    figure.update_yaxes(
        title_text="evaluations at once",
        range=[lanes - 0.4, -1.6],
        tickvals=[-1, *shown],
        ticktext=["phases", *(str(lane + 1) for lane in shown)],
        showgrid=False,
    )
    if lacking:
        caption(figure, f"the log does not tell when {lacking} others ran")
    return figure


def _lines(
    starts: Sequence[float], ends: Sequence[float], heights: Sequence[float], points: int
) -> tuple[list[float | None], list[float | None]]:
    """Return coordinates of horizontal lines with gaps between; each has so many points."""
    x: list[float | None] = []
    y: list[float | None] = []
    for start, end, height in zip(starts, ends, heights, strict=True):
        step = (end - start) / (points - 1)
        x += [round(start + at * step, 4) for at in range(points)] + [None]
        y += [height] * points + [None]
    return x, y


def _bars(rows: pd.DataFrame, part: str, thickness: float, shortest: float) -> go.Scatter:
    starts = rows["start"].clip(upper=rows["end"] - shortest)
    x, y = _lines(starts.tolist(), rows["end"].tolist(), rows["lane"].tolist(), 2)
    details: list[list[Any]] = []
    for row, trial, round_, seconds in zip(
        rows["row"], rows["trial"], rows["round"], rows["seconds"].round(3), strict=True
    ):
        detail = [int(row), int(trial), int(round_), float(seconds)]
        details += [detail, detail, [-1]]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"width": thickness, "color": COLOURS[part], "simplify": False},
        name=part,
        customdata=details,
        hovertemplate="trial %{customdata[1]}, round %{customdata[2]}<br>"
        f"{part}<br>%{{customdata[3]}} s, at %{{x:.2f}} min<extra></extra>",
        meta=part,
    )


def _crosses(rows: pd.DataFrame) -> go.Scatter:
    return go.Scatter(
        x=rows["end"].round(4),
        y=rows["lane"],
        mode="markers",
        marker={"symbol": "x", "size": 10, "color": COLOURS["failed"]},
        name="failed",
        customdata=[
            [-1, int(trial), int(round_), escape(reason, 80)]
            for trial, round_, reason in zip(
                rows["trial"], rows["round"], rows["reason"], strict=True
            )
        ],
        hovertemplate="trial %{customdata[1]}, round %{customdata[2]} failed<br>"
        "%{customdata[3]}<br>at %{x:.2f} min<extra></extra>",
        meta="failed",
    )


def _phase(rows: pd.DataFrame, name: str) -> go.Scatter:
    points = 9  # Labels come up near points, so a long phase has some on its way.
    x, y = _lines(rows["start"].tolist(), rows["end"].tolist(), [-1.0] * len(rows), points)
    details: list[list[Any]] = []
    for kind, round_, start, end, complete in rows.itertuples(index=False, name=None):
        seconds = round((end - start) * 60, 2)
        detail = [int(round_), escape(kind, 40), seconds, "" if complete else ", not finished"]
        details += [detail] * points + [[-1]]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"width": 14, "color": _PHASES.get(name, _OTHER), "simplify": False},
        name=name,
        customdata=details,
        hovertemplate="%{customdata[1]}, round %{customdata[0]}<br>"
        "%{customdata[2]} s%{customdata[3]}<extra></extra>",
        meta="round-phase",
    )
