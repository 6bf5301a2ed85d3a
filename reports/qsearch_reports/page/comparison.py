"""Several studies on one page: what their comparison shows, and in which words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from qsearch.storage.study_record import StudyRecord
from qsearch_reports import figures, frames
from qsearch_reports.results import StudyResults, is_unfinished
from qsearch_reports.summaries.table import with_error
from qsearch_reports.texts import metric_text

_MAX_VALUES = 160
"""Characters of a setting's value that the page shows."""


@dataclass(frozen=True)
class Choice:
    """A plot that a selector offers; ``label`` is what a screen reader hears of it."""

    key: str
    name: str
    label: str
    figure: go.Figure


@dataclass(frozen=True)
class Row:
    """A study or a method in the table of quality, as texts; losses are by budget."""

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
        names: Labels of the studies; ``studies`` of a method are positions in it.
        unknown: Labels of studies whose settings are not known.
        is_trained: Whether any study trains, and so has rounds.
        unit: Of the losses; "" if it is not known, or not one.
        unfinished: Number of finished rounds of the studies that are not finished, by label.
        incomparable: By what differs, its value in each study, where losses cannot be compared.
        settings: By setting in which methods differ, its value in each of ``compared``.
        by_round, reference: None if no study has a reference point; the former also without rounds.
        by_method: Empty unless a method has several seeds.
        outcomes: Wins, ties and losses of each method (rows) against each other one; None on the
            diagonal.
        has_own_edges: Whether ``edges`` are the segments of the studies themselves.
    """

    names: Sequence[str]
    methods: Sequence[frames.Method]
    has_seeds: bool
    is_trained: bool
    unit: str
    unknown: Sequence[str]
    unfinished: Mapping[str, int]
    incomparable: Mapping[str, Sequence[str]]
    settings: Mapping[str, Sequence[str]]
    compared: Sequence[str]
    fronts: Sequence[Choice]
    times: Sequence[Choice]
    segments: Sequence[Choice]
    by_round: go.Figure | None
    reference: tuple[tuple[float, float], float] | None
    budgets: Sequence[float]
    by_method: Sequence[Row]
    by_study: Sequence[Row]
    outcomes: Sequence[Sequence[Mapping[str, int] | None]]
    legend: Sequence[tuple[str, str, str]]
    edges: Sequence[float]
    has_own_edges: bool

    @property
    def figures(self) -> dict[str, go.Figure]:
        """All figures, by key."""
        choices = (*self.fronts, *self.times, *self.segments)
        drawn = {} if self.by_round is None else {"hypervolume": self.by_round}
        return {choice.key: choice.figure for choice in choices} | drawn


def comparison_context(results: Sequence[StudyResults], names: Sequence[str]) -> Comparison:
    """Return what a page shows of several studies."""
    names = frames.distinct(names)
    records = [result.record for result in results]
    methods = frames.group_methods(results, names)
    of_study = {names[place]: method.label for method in methods for place in method.studies}
    budgets = frames.common_budgets(records)
    edges, has_own_edges = frames.common_edges(records)
    outcomes = frames.outcomes_frame(records, methods, edges)
    by_round = _with_method(frames.comparison_frame(records, names), of_study)
    at_times = _with_method(frames.time_frame(records, names, budgets), of_study)
    at_budgets = frames.study_fronts_frame(records, names, "loss", budgets)
    is_trained = any(record.is_trained for record in records)
    units = set(map(frames.loss_unit, records))
    unit = units.pop() if len(units) == 1 else ""
    has_seeds = any(len(method.studies) > 1 for method in methods)
    by_study, by_method = frames.hypervolume_table(by_round, names, methods)
    settings = frames.setting_differences(results, methods)
    named = list(zip(names, results, strict=True))
    return Comparison(
        names=names,
        methods=methods,
        has_seeds=has_seeds,
        is_trained=is_trained,
        unit=unit,
        unknown=[name for name, result in named if result.settings is None],
        unfinished={name: len(one.record.rounds) for name, one in named if is_unfinished(one)},
        incomparable=frames.incomparable(results),
        settings={
            str(setting): [_short(value) for value in rows["value"]]
            for setting, rows in settings.groupby("setting", sort=False)
        },
        compared=list(dict.fromkeys(settings["method"])),
        fronts=_fronts(records, names, methods, of_study, unit),
        times=_times(by_round, at_times, unit),
        segments=_segments(outcomes),
        by_round=figures.comparison_figure(by_round) if is_trained and len(by_round) else None,
        reference=frames.common_reference(records),
        budgets=budgets,
        by_method=_rows(by_method, frames.method_frame(at_budgets, names, methods))
        if has_seeds
        else [],
        by_study=_rows(
            by_study.rename(columns={"hypervolume": "mean"}),
            at_budgets.rename(columns={"value": "mean"}),
        ),
        outcomes=_counts(outcomes, [method.label for method in methods]),
        legend=figures.outcome_legend(),
        edges=edges,
        has_own_edges=has_own_edges,
    )


def _with_method(studies: pd.DataFrame, of_study: Mapping[str, str]) -> pd.DataFrame:
    return studies.assign(method=studies["study"].map(of_study))


def _fronts(
    records: Sequence[StudyRecord],
    names: Sequence[str],
    methods: Sequence[frames.Method],
    of_study: Mapping[str, str],
    unit: str,
) -> list[Choice]:
    """Draw the fronts of losses, and of task metrics if all have the same."""
    metric = records[0].metric
    offered = [("loss", "Loss", "loss")]
    if metric and all(record.metric == metric for record in records):
        offered.append(("metric", metric_text(metric), "the task metric"))
    choices = []
    for key, name, what in offered:
        studies = frames.study_fronts_frame(records, names, key)
        means = frames.method_frame(studies, names, methods)
        title = figures.value_title(key, metric, unit)
        figure = figures.fronts_figure(means, _with_method(studies, of_study), title)
        label = f"Pareto fronts of {what} against average bits, one for each method"
        choices.append(Choice(key, name, label, figure))
    return choices


def _times(by_round: pd.DataFrame, losses: pd.DataFrame, unit: str) -> list[Choice]:
    """Draw quality against time."""
    choices = []
    if by_round["minutes"].notna().any():
        figure = figures.time_figure(by_round, "hypervolume")
        choices.append(Choice("time", "Hypervolume", "Hypervolume by minutes of work", figure))
    for budget, rows in losses.dropna(subset=["minutes", "loss"]).groupby("budget"):
        name = f"Loss at ≤ {budget:g} average bits"
        figure = figures.time_figure(rows, "loss", unit)
        choices.append(Choice(f"time-{budget:g}", name, f"{name}, by minutes of work", figure))
    return choices


def _segments(outcomes: pd.DataFrame) -> list[Choice]:
    return [
        Choice(
            f"segments-{place}",
            method,
            f"Wins, ties and losses by segment of {method} against the other methods",
            figures.outcomes_figure(outcomes, method),
        )
        for place, method in enumerate(dict.fromkeys(outcomes["method"]))
    ]


def _counts(outcomes: pd.DataFrame, labels: Sequence[str]) -> list[list[Mapping[str, int] | None]]:
    counts = {
        (row["method"], row["other"]): {name: int(row[name]) for name in frames.OUTCOMES}
        for row in frames.outcome_counts(outcomes).to_dict("records")
    }
    return [[counts.get((method, other)) for other in labels] for method in labels]


def _rows(ranked: pd.DataFrame, at_budgets: pd.DataFrame) -> list[Row]:
    """Return a row for each study or method, by their first column.

    Both tables have values as ``mean``, and those of methods the ends ``low`` and ``high`` of its
    interval: of hypervolumes by ``rank``, and of losses by ``budget``.
    """
    by = ranked.columns[0]
    least = at_budgets.groupby("budget")["mean"].min()
    rows = []
    for row in ranked.to_dict("records"):
        own = at_budgets[at_budgets[by] == row[by]].to_dict("records")
        rows.append(
            Row(
                name=str(row[by]),
                seeds=int(row.get("seeds", 1)),
                hypervolume=_with_interval(row),
                losses=tuple(map(_with_interval, own)),
                is_best=tuple(bool(at["mean"] == least[at["budget"]]) for at in own),
                rank="–" if math.isnan(row["rank"]) else str(int(row["rank"])),
            )
        )
    return rows


def _with_interval(row: Mapping[Any, Any]) -> str:
    """Return a mean as text, with half of its interval, which lies evenly, if it has one."""
    return with_error(row["mean"], (row.get("high", math.nan) - row.get("low", math.nan)) / 2)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_VALUES else f"{text[: _MAX_VALUES - 1]}…"
