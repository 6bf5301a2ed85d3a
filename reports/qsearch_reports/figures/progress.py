"""How a study went: hypervolume and training loss."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from qsearch_reports.figures.style import (
    COLOURS,
    details,
    new_figure,
    note,
    round_axis,
    vertical,
    with_gaps,
)

_MAX_MARKERS = 400
"""Results up to which each is a marker on the line: thousands are slow to draw, and touch."""


def hypervolume_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw hypervolume by round, from :func:`~qsearch_reports.frames.hypervolume_frame`."""
    figure = new_figure("Hypervolume by round")
    if frame.empty:
        return note(figure, "no round is finished yet")
    figure.add_scatter(
        x=frame["round"],
        y=frame["hypervolume"],
        mode="lines+markers",
        line={"color": COLOURS["line"], "width": 2},
        marker={"size": 8, "color": COLOURS["line"]},
        name="hypervolume",
        customdata=details(frame, "round"),
        hovertemplate="round %{x}<br>hypervolume %{y:.4f}<extra></extra>",
        meta="round-line",
    )
    round_axis(figure, frame["round"])
    figure.update_yaxes(title_text="hypervolume (normalised)")
    return figure


def progress_figure(
    frame: pd.DataFrame, by: Literal["evaluation", "minutes"] = "evaluation"
) -> go.Figure:
    """Draw hypervolume after each evaluation; each round starts anew, behind a dotted line."""
    figure = new_figure(f"Hypervolume by {'evaluation' if by == 'evaluation' else 'minute'}")
    known = frame[frame[by].notna() & frame["hypervolume"].notna()]
    if known.empty:
        return note(
            figure,
            "the log does not tell when evaluations ended"
            if frame["hypervolume"].notna().any()
            else "there is no hypervolume until the first round ends",
        )
    rounds = [rows.round({by: 4, "hypervolume": 6}) for _, rows in known.groupby("round")]
    starts = [vertical(float(known.loc[rows.index[0], by]), "segment") for rows in rounds]
    is_sparse = len(known) <= _MAX_MARKERS
    figure.add_scatter(
        # The line does not fall from one round to the next.
        **with_gaps(
            (rows[by], rows["hypervolume"], details(rows, "row", "trial", "round"))
            for rows in rounds
        ),
        mode="lines+markers" if is_sparse else "lines",
        line={"color": COLOURS["line"], "width": 2, "shape": "hv"},
        marker={"size": 5, "color": COLOURS["line"]} if is_sparse else None,
        name="hypervolume",
        hovertemplate="round %{customdata[2]}, trial %{customdata[1]}<br>"
        + ("evaluation %{x}" if by == "evaluation" else "%{x:.2f} minutes")
        + "<br>hypervolume %{y:.4f}<extra></extra>",
        meta="line",
    )
    figure.update_layout(shapes=starts[1:])
    figure.update_xaxes(
        title_text="evaluation (all rounds)"
        if by == "evaluation"
        else "minutes of running until the result came"
    )
    figure.update_yaxes(title_text="hypervolume (normalised)")
    return figure


def training_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw training loss by step, a line per round."""
    figure = new_figure("Training loss by round")
    if frame.empty:
        return note(figure, "no round with training is finished yet")
    starts: list[dict[str, Any]] = []
    for _, rows in frame.groupby("round"):
        number = int(rows["round"].iloc[0])
        starts.append(vertical(float(rows["step"].iloc[0]), "segment"))
        figure.add_scatter(
            x=rows["step"],
            y=rows["loss"],
            mode="lines",
            line={"color": COLOURS["line"], "width": 1.5},
            name=f"round {number}",
            customdata=[[number]] * len(rows),
            hovertemplate=f"round {number}, step %{{x}}<br>loss %{{y:.4f}}<extra></extra>",
            showlegend=False,
            meta=f"round-{number}",
        )
    figure.update_layout(shapes=starts[1:])
    figure.update_xaxes(title_text="optimizer step (all rounds)")
    figure.update_yaxes(title_text="training loss (nats)")
    return figure
