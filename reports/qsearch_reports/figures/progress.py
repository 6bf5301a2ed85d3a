"""How a study went: hypervolume and training loss."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from qsearch_reports.figures import style

_MAX_MARKERS = 400
"""Results up to which each is a marker on the line: thousands are slow to draw, and touch."""


def hypervolume_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw hypervolume by round."""
    figure = style.new_figure("Hypervolume by round", "round", "hypervolume (normalised)")
    if frame.empty:
        return style.note(figure, "no round is finished yet")
    figure.add_scatter(
        x=frame["round"],
        y=frame["hypervolume"],
        mode="lines+markers",
        line={"color": style.COLOURS["line"], "width": 2},
        marker={"size": 8, "color": style.COLOURS["line"]},
        name="hypervolume",
        customdata=style.details(frame, "round"),
        hovertemplate="round %{x}<br>hypervolume %{y:.4f}<extra></extra>",
        meta="round-line",
    )
    return style.round_axis(figure, frame["round"])


def progress_figure(
    frame: pd.DataFrame, by: Literal["evaluation", "minutes"] = "evaluation"
) -> go.Figure:
    """Draw hypervolume after each evaluation; each round starts again, behind a dotted line."""
    title, x, at = {
        "evaluation": ("evaluation", "evaluation (all rounds)", "evaluation %{x}"),
        "minutes": ("minute", "minutes of running until the result came", "%{x:.2f} minutes"),
    }[by]
    figure = style.new_figure(f"Hypervolume by {title}", x, "hypervolume (normalised)")
    known = frame[frame[by].notna() & frame["hypervolume"].notna()]
    if known.empty:
        return style.note(
            figure,
            "the log has no end times of evaluations"
            if frame["hypervolume"].notna().any()
            else "there is no hypervolume until the first round ends",
        )
    rounds = [rows.round({by: 4, "hypervolume": 6}) for _, rows in known.groupby("round")]
    starts = [style.vertical(float(known.loc[rows.index[0], by]), "segment") for rows in rounds]
    # With gaps, the line does not fall from one round to the next.
    line = style.with_gaps(
        (rows[by], rows["hypervolume"], style.details(rows, "row", "trial", "round"))
        for rows in rounds
    )
    is_sparse = len(known) <= _MAX_MARKERS
    figure.add_scatter(
        **{name: values[:-1] for name, values in line.items()},
        mode="lines+markers" if is_sparse else "lines",
        line={"color": style.COLOURS["line"], "width": 2, "shape": "hv"},
        marker={"size": 5, "color": style.COLOURS["line"]} if is_sparse else None,
        name="hypervolume",
        hovertemplate=f"round %{{customdata[2]}}, trial %{{customdata[1]}}<br>{at}<br>"
        "hypervolume %{y:.4f}<extra></extra>",
        meta="line",
    )
    return figure.update_layout(shapes=starts[1:])


def training_figure(frame: pd.DataFrame) -> go.Figure:
    """Draw training loss by step, a line per round."""
    figure = style.new_figure(
        "Training loss by round", "optimizer step (all rounds)", "training loss (nats)"
    )
    if frame.empty:
        return style.note(figure, "no round with training is finished yet")
    starts: list[dict[str, Any]] = []
    for _, rows in frame.groupby("round"):
        number = int(rows["round"].iloc[0])
        starts.append(style.vertical(float(rows["step"].iloc[0]), "segment"))
        figure.add_scatter(
            x=rows["step"],
            y=rows["loss"],
            mode="lines",
            line={"color": style.COLOURS["line"], "width": 1.5},
            name=f"round {number}",
            customdata=[[number]] * len(rows),
            hovertemplate=f"round {number}, step %{{x}}<br>loss %{{y:.4f}}<extra></extra>",
            showlegend=False,
            meta=f"round-{number}",
        )
    return figure.update_layout(shapes=starts[1:])
