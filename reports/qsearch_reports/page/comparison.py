"""Several studies on one page: what their comparison shows, and in which words."""

from __future__ import annotations

import json
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

_MAX_VALUES = 160
"""Characters of a setting's value that the page shows."""


@dataclass(frozen=True)
class Choice:
    """A plot that a selector offers; ``label`` is what a screen reader hears of it."""

    key: str
    name: str
    label: str


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
        unfinished: Number of finished rounds of the studies that are not finished, by label.
        incomparable: By what differs, its value in each study, where losses cannot be compared.
        settings: By setting in which methods differ, its value in each of ``compared``.
        compared: Labels of the methods whose settings are known.
        fronts, times, segments: What the selectors of plots offer.
        reference: The common reference point (loss, average bits) and the least average bits;
            None if no study has one.
        by_method: Empty unless a method has several seeds.
        outcomes: Wins, ties and losses of each method (rows) against each other one; None on the
            diagonal.
        has_own_edges: Whether ``edges`` are the segments of the studies themselves.
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


def comparison_context(
    results: Sequence[StudyResults],
    names: Sequence[str],
    points: Sequence[pd.DataFrame] | None = None,
) -> Comparison:
    """Return what a page shows of several studies; ``points`` are their ``points_frame``."""
    names = frames.distinct(names)
    records = [result.record for result in results]
    points = frames.points_of(records, points)
    methods = frames.group_methods(results, names)
    of_study = {names[place]: method.label for method in methods for place in method.studies}
    budgets = frames.common_budgets(records, points=points)
    edges, has_own_edges = frames.common_edges(records)
    outcomes = frames.outcomes_frame(records, methods, edges, points)
    by_round = frames.comparison_frame(records, names, points)
    drawn: dict[str, go.Figure] = {}
    fronts = _fronts(drawn, records, points, names, methods, of_study)
    by_round = by_round.assign(method=by_round["study"].map(of_study))
    at_times = frames.time_frame(records, names, budgets, points)
    times = _times(drawn, by_round, at_times.assign(method=at_times["study"].map(of_study)))
    segments = _segments(drawn, outcomes)
    at_budgets = frames.study_fronts_frame(records, names, "loss", budgets, points)
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
        by_method=_rows(by_method, means) if has_seeds else [],
        by_study=_rows(
            by_study.rename(columns={"hypervolume": "mean"}),
            at_budgets.rename(columns={"value": "mean"}),
        ),
        outcomes=_counts(outcomes, [method.label for method in methods]),
        edges=edges,
        has_own_edges=has_own_edges,
    )


def _fronts(
    drawn: dict[str, go.Figure],
    records: Sequence[StudyRecord],
    points: Sequence[pd.DataFrame],
    names: Sequence[str],
    methods: Sequence[frames.Method],
    of_study: Mapping[str, str],
) -> list[Choice]:
    budgets = frames.front_budgets(records, points=points)
    metrics = {(record.metric.name, record.metric.better) for record in records}
    choices = [
        Choice("loss", "Loss", "Pareto fronts of loss against average bits, one for each method")
    ]
    if len(metrics) == 1:
        metric = records[0].metric
        label = "Pareto fronts of the task metric against average bits, one for each method"
        choices.append(Choice("metric", f"{metric.name} ({metric.better} is better)", label))
    for choice in choices:
        studies = frames.study_fronts_frame(records, names, choice.key, budgets, points)
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
