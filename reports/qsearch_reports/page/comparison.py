"""Several studies on one page: what their comparison shows, and in which words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from qsearch_reports import figures, frames
from qsearch_reports.results import StudyResults, is_unfinished
from qsearch_reports.summaries.table import with_error

_MAX_VALUES = 160
"""Characters of a setting's value that the page shows."""


@dataclass(frozen=True)
class Choice:
    """A figure that a selector offers.

    Args:
        key: Of the figure.
        name: What the selector calls it.
        label: What a screen reader hears of the figure.
    """

    key: str
    name: str
    label: str


@dataclass(frozen=True)
class Row:
    """A row of the table of quality.

    Args:
        name: Of the study or the method.
        seeds: How many seeds it is of.
        hypervolume: As text.
        losses: At each budget, as text.
        is_best: Whether a loss is the least at its budget.
        rank: By hypervolume, as text.
    """

    name: str
    seeds: int
    hypervolume: str
    losses: tuple[str, ...]
    is_best: tuple[bool, ...]
    rank: str


@dataclass(frozen=True)
class Comparison:
    """All that the page shows of several studies.

    Args:
        names: Labels of the studies.
        methods: Their methods; ``studies`` of each are positions in ``names``.
        has_seeds: Whether any method has several seeds.
        unknown: Labels of studies whose settings are not known.
        unfinished: Finished rounds of the studies that are not finished, by label.
        incomparable: By what differs, its value in each study, where losses cannot be compared.
        settings: By setting in which methods differ, its value in each of ``compared``.
        compared: Labels of the methods whose settings are known.
        figures: By key.
        fronts: What the selector of fronts offers.
        times: What the selector of quality against time offers.
        segments: What the selector of wins by segment offers: a figure for each method.
        reference: The common reference point (loss, average bits) and the least average bits;
            None if no study has one.
        budgets: Average bits of the table's columns.
        by_method: Rows of the table by method; none unless a method has several seeds.
        by_study: Rows of the table by study.
        outcomes: Wins, ties and losses of each method (rows) against each other one; None on the
            diagonal.
        edges: Edges of the segments.
        has_own_edges: Whether these are the segments of the studies themselves.
    """

    names: Sequence[str]
    methods: Sequence[frames.Method]
    has_seeds: bool
    unknown: Sequence[str]
    unfinished: Mapping[str, int]
    incomparable: Mapping[str, Sequence[str]]
    settings: Mapping[str, Sequence[str]]
    compared: Sequence[str]
    figures: Mapping[str, go.Figure]
    fronts: Sequence[Choice]
    times: Sequence[Choice]
    segments: Sequence[Choice]
    reference: tuple[tuple[float, float], float] | None
    budgets: Sequence[float]
    by_method: Sequence[Row]
    by_study: Sequence[Row]
    outcomes: Sequence[Sequence[Mapping[str, int] | None]]
    edges: Sequence[float]
    has_own_edges: bool

    @property
    def legend(self) -> Sequence[tuple[str, str, str]]:
        """Letter, word and colour of each outcome that is drawn."""
        return figures.outcome_legend()

    def json_figures(self) -> dict[str, Any]:
        """Return the figures as JSON values, by key."""
        return {key: json.loads(figure.to_json()) for key, figure in self.figures.items()}


def comparison_context(results: Sequence[StudyResults], names: Sequence[str]) -> Comparison:
    """Return what a page shows of several studies."""
    names = frames.distinct(names)
    records = [result.record for result in results]
    methods = frames.group_methods(results, names)
    of_study = {names[place]: method.label for method in methods for place in method.studies}
    budgets = frames.common_budgets(records)
    edges, has_own_edges = frames.common_edges(records)
    outcomes = frames.outcomes_frame(records, methods, edges)
    by_round = frames.comparison_frame(records, names)
    drawn: dict[str, go.Figure] = {}
    fronts = _fronts(drawn, results, names, methods, of_study)
    by_round = by_round.assign(method=by_round["study"].map(of_study))
    at_times = frames.time_frame(records, names, budgets)
    times = _times(drawn, by_round, at_times.assign(method=at_times["study"].map(of_study)))
    segments = _segments(drawn, outcomes)
    at_budgets = frames.study_fronts_frame(records, names, "loss", budgets)
    has_seeds = any(len(method.studies) > 1 for method in methods)
    by_study, by_method = frames.hypervolume_table(by_round, names, methods)
    settings = frames.setting_differences(results, methods)
    means = frames.method_frame(at_budgets, names, methods)
    return Comparison(
        names=names,
        methods=methods,
        has_seeds=has_seeds,
        unknown=[
            name for name, result in zip(names, results, strict=True) if result.settings is None
        ],
        unfinished={
            name: len(study.record.rounds)
            for study, name in zip(results, names, strict=True)
            if is_unfinished(study)
        },
        incomparable=frames.incomparable(results),
        settings={
            str(setting): [_short(value) for value in rows["value"]]
            for setting, rows in settings.groupby("setting", sort=False)
        },
        compared=list(dict.fromkeys(settings["method"])),
        figures=drawn,
        fronts=fronts,
        times=times,
        segments=segments,
        reference=frames.common_reference(records),
        budgets=budgets,
        by_method=_rows("method", by_method, "mean", means, "mean") if has_seeds else [],
        by_study=_rows("study", by_study, "hypervolume", at_budgets, "value"),
        outcomes=_counts(outcomes, [method.label for method in methods]),
        edges=edges,
        has_own_edges=has_own_edges,
    )


def _fronts(
    drawn: dict[str, go.Figure],
    results: Sequence[StudyResults],
    names: Sequence[str],
    methods: Sequence[frames.Method],
    of_study: Mapping[str, str],
) -> list[Choice]:
    records = [result.record for result in results]
    budgets = frames.front_budgets(records)
    metrics = {(record.metric.name, record.metric.better) for record in records}
    choices = [Choice("loss", "Loss", "Fronts of loss against average bits, one for each method")]
    if len(metrics) == 1:
        metric = records[0].metric
        label = "Fronts of the task metric against average bits, one for each method"
        choices.append(Choice("metric", f"{metric.name} ({metric.better} is better)", label))
    for choice in choices:
        studies = frames.study_fronts_frame(records, names, choice.key, budgets)
        title = figures.value_title(choice.key, records[0].metric)
        drawn[choice.key] = figures.fronts_figure(
            frames.method_frame(studies, names, methods),
            studies.assign(method=studies["study"].map(of_study)),
            title,
        )
    return choices


def _times(
    drawn: dict[str, go.Figure], by_round: pd.DataFrame, losses: pd.DataFrame
) -> list[Choice]:
    """Draw hypervolume by round, and quality against time; offer the latter."""
    choices = []
    if not by_round.empty:
        drawn["hypervolume"] = figures.comparison_figure(by_round)
    if by_round["minutes"].notna().any():
        drawn["time"] = figures.time_figure(by_round, "hypervolume")
        choices.append(Choice("time", "Hypervolume", "Hypervolume by minutes of work"))
    for budget, rows in losses.dropna(subset=["minutes", "loss"]).groupby("budget"):
        key = f"time-{budget:g}"
        drawn[key] = figures.time_figure(rows, "loss")
        name = f"Loss at ≤ {budget:g} average bits"
        choices.append(Choice(key, name, f"{name}, by minutes of work"))
    return choices


def _segments(drawn: dict[str, go.Figure], outcomes: pd.DataFrame) -> list[Choice]:
    choices = []
    for place, method in enumerate(dict.fromkeys(outcomes["method"])):
        key = f"segments-{place}"
        drawn[key] = figures.outcomes_figure(outcomes, method)
        label = f"Wins, ties and losses by segment of {method} against the other methods"
        choices.append(Choice(key, method, label))
    return choices


def _counts(outcomes: pd.DataFrame, labels: Sequence[str]) -> list[list[Mapping[str, int] | None]]:
    counts = {
        (row["method"], row["other"]): {name: int(row[name]) for name in frames.OUTCOMES}
        for row in frames.outcome_counts(outcomes).to_dict("records")
    }
    return [[counts.get((method, other)) for other in labels] for method in labels]


def _rows(
    by: str, ranked: pd.DataFrame, hypervolume: str, at_budgets: pd.DataFrame, loss: str
) -> list[Row]:
    """Return a row for each study or method."""
    least = at_budgets.groupby("budget")[loss].min()
    rows = []
    for row in ranked.to_dict("records"):
        own = at_budgets[at_budgets[by] == row[by]].to_dict("records")
        rows.append(
            Row(
                name=str(row[by]),
                seeds=int(row.get("seeds", 1)),
                hypervolume=_figure(row, hypervolume),
                losses=tuple(_figure(one, loss) for one in own),
                is_best=tuple(bool(one[loss] == least[one["budget"]]) for one in own),
                rank=_rank(row["rank"]),
            )
        )
    return rows


def _figure(row: Mapping[Any, Any], column: str) -> str:
    """Return a figure as text, with half of its interval if it has one, which lies evenly."""
    low, high = (row.get(end, math.nan) for end in ("low", "high"))
    return with_error(row[column], (high - low) / 2)


def _rank(rank: float) -> str:
    return "–" if math.isnan(rank) else str(int(rank))


def _short(text: str) -> str:
    return text if len(text) <= _MAX_VALUES else f"{text[: _MAX_VALUES - 1]}…"
