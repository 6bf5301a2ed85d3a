"""What the paper's comparison came to: hypervolumes, gaps, minutes, and how sure they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from benchmarks.confidence import half_width
from benchmarks.paper_runs import BUDGETS, ENTRIES, Outcome, Served
from qsearch._arrays import Floats
from qsearch.search.pareto import normalised_hypervolume

BITS = (2.25, 7.25)
"""Average bits between which hypervolume is taken."""

OURS = "coa-lora"

PAPER = pd.DataFrame(
    [
        ("qlora", "QNLI", 0.58, None, 119),
        ("qlora", "MNLI", 0.54, None, 208),
        ("qlora", "SST-2", 0.63, None, 97),
        ("qlora", "QQP", 0.54, None, 189),
        ("lq-lora", "QNLI", 0.59, 2.81, 108),
        ("lq-lora", "MNLI", 0.57, 8.13, 183),
        ("lq-lora", "SST-2", 0.64, 1.54, 91),
        ("lq-lora", "QQP", 0.54, 0.47, 172),
        ("shared-lora", "QNLI", 0.60, 2.90, 21),
        ("shared-lora", "MNLI", 0.57, 8.11, 35),
        ("shared-lora", "SST-2", 0.61, -5.06, 19),
        ("shared-lora", "QQP", 0.53, -1.18, 32),
        ("coa-lora", "QNLI", 0.62, 4.34, 57),
        ("coa-lora", "MNLI", 0.59, 8.89, 91),
        ("coa-lora", "SST-2", 0.67, 1.74, 52),
        ("coa-lora", "QQP", 0.60, 7.87, 88),
    ],
    columns=["method", "task", "hypervolume", "gap", "minutes"],
)
"""The paper's table: RoBERTa-large, six configurations served; gaps in points."""


@dataclass(frozen=True)
class Scale:
    """How quality is measured.

    Args:
        value: ``metric``, of which more is better, or ``loss``.
        worst: Its value at the reference point.
        best: Its value at the ideal point.
        unit: Unit of gaps.
        per_unit: Units in a difference of 1.
    """

    value: Literal["metric", "loss"]
    worst: float
    best: float
    unit: str
    per_unit: float

    def quality(self, served: Served) -> float:
        """Return the value with its sign such that more is better."""
        return served.metric if self.value == "metric" else -served.loss

    def hypervolume(
        self, outcome: Outcome, at: Literal["budget", "average_bits"] = "budget"
    ) -> float:
        """Return the share of the box that the served configurations dominate.

        The box goes from the worst quality at the most bits to the best at the least.

        Args:
            outcome: What is served.
            at: Where a configuration stands: at the budget that it serves, so that bits left
                unused gain nothing, or at its own average bits.
        """
        sign = 1 if self.value == "metric" else -1
        points = np.array([[-self.quality(one), getattr(one, at)] for one in outcome.served])
        reference, ideal = (-sign * self.worst, BITS[1]), (-sign * self.best, BITS[0])
        return normalised_hypervolume(points, reference, ideal)

    def gap(self, outcome: Outcome, reference: Outcome) -> float:
        """Return the mean over the budgets of the quality above another's, in units."""
        pairs = zip(outcome.served, reference.served, strict=True)
        return self.per_unit * float(
            np.mean([self.quality(own) - self.quality(other) for own, other in pairs])
        )


@dataclass(frozen=True)
class Figures:
    """A method's figures over seeds.

    Args:
        method: The method.
        hypervolume: One a seed, at budgets (n).
        hypervolume_at_bits: The same at the configurations' own average bits (n).
        gap: Units above the entry's reference with the same seed (n); NaN where that is missing.
        minutes: Until all budgets could be served (n).
        seeds: The seeds (n).
        configurations: How many configurations serve the budgets (n).
        evaluations: How many were evaluated (n).
        machines: Processor, cores and threads that they ran on (n).
    """

    method: str
    hypervolume: Floats
    hypervolume_at_bits: Floats
    gap: Floats
    minutes: Floats
    seeds: tuple[int, ...]
    configurations: tuple[int, ...]
    evaluations: tuple[int, ...]
    machines: tuple[tuple[Any, ...], ...]

    def at(self, seeds: Collection[int]) -> Figures:
        """Return the figures of some seeds alone."""
        kept = [position for position, seed in enumerate(self.seeds) if seed in seeds]
        return Figures(
            self.method,
            self.hypervolume[kept],
            self.hypervolume_at_bits[kept],
            self.gap[kept],
            self.minutes[kept],
            tuple(self.seeds[position] for position in kept),
            tuple(self.configurations[position] for position in kept),
            tuple(self.evaluations[position] for position in kept),
            tuple(self.machines[position] for position in kept),
        )


def figures_of(outcomes: Mapping[str, Sequence[Outcome]], scale: Scale) -> list[Figures]:
    """Return the figures of each method.

    Args:
        outcomes: By method, one a seed.
        scale: How quality is measured.
    """
    return [
        Figures(
            method,
            np.array([scale.hypervolume(one) for one in found]),
            np.array([scale.hypervolume(one, at="average_bits") for one in found]),
            _gaps(found, outcomes.get(ENTRIES[method].reference, ()), scale),
            np.array([one.minutes for one in found]),
            tuple(one.seed for one in found),
            tuple(one.configurations for one in found),
            tuple(one.evaluations for one in found),
            tuple(tuple(one.machine[key] for key in _MACHINE) for one in found),
        )
        for method, found in outcomes.items()
        if found
    ]


_MACHINE = ("processor", "cores", "threads")


def _gaps(found: Sequence[Outcome], references: Sequence[Outcome], scale: Scale) -> Floats:
    by_seed = {one.seed: one for one in references}
    return np.array(
        [scale.gap(one, by_seed[one.seed]) if one.seed in by_seed else np.nan for one in found]
    )


def table_of(figures: Sequence[Figures], paper_task: str | None = None) -> pd.DataFrame:
    """Return one row a method: seeds, then mean and half width of each figure.

    ``less ours`` is the hypervolume less that of CoA-LoRA with the same seed.

    Args:
        figures: Those of each method.
        paper_task: The task of the paper's table whose values stand next to ours.
    """
    rows = []
    ours = next((one for one in figures if one.method == OURS), None)
    for one in figures:
        row: dict[str, object] = {
            "method": one.method,
            "seeds": len(one.seeds),
            "configurations": max(one.configurations),
        }
        measured = {name: getattr(one, name) for name in _MEASURED}
        measured["less ours"] = np.array([]) if ours is None else _less(one, ours)
        for name, values in measured.items():
            known = pd.Series(values, dtype=float).dropna()
            row[name], row[f"{name} ±"] = float(known.mean()), half_width(known.to_numpy())
        rows.append(row)
    table = pd.DataFrame(rows)
    if paper_task is None:
        return table
    theirs = PAPER[PAPER["task"] == paper_task].drop(columns="task").set_index("method")
    return table.join(theirs.add_prefix("paper's "), on="method")


_MEASURED = ("hypervolume", "hypervolume_at_bits", "gap", "minutes")


def _less(one: Figures, other: Figures) -> Floats:
    """Return the hypervolume less another method's with each seed that both have (n)."""
    theirs = dict(zip(other.seeds, other.hypervolume, strict=True))
    pairs = zip(one.seeds, one.hypervolume, strict=True)
    return np.array([own - theirs[seed] for seed, own in pairs if seed in theirs])


def budget_table(outcomes: Mapping[str, Sequence[Outcome]], scale: Scale) -> pd.DataFrame:
    """Return one row a method and budget: bits served and quality, means over seeds.

    Args:
        outcomes: By method, one a seed.
        scale: How quality is measured; losses are as they are, less is better.
    """
    rows = []
    for method, found in outcomes.items():
        for position, budget in enumerate(BUDGETS if found else ()):
            served = [outcome.served[position] for outcome in found]
            values = np.array([getattr(one, scale.value) for one in served])
            rows.append(
                {
                    "method": method,
                    "seeds": len(found),
                    "budget": budget,
                    "average_bits": float(np.mean([one.average_bits for one in served])),
                    scale.value: float(values.mean()),
                    f"{scale.value} ±": half_width(values),
                }
            )
    return pd.DataFrame(rows)


def markdown_of(table: pd.DataFrame, unit: str) -> str:
    """Return a table of :func:`table_of` as Markdown."""
    header = ["method", "seeds", "hypervolume", "less CoA-LoRA's with the same seeds"]
    header += ["at own bits", f"gap ({unit})", "minutes"]
    has_paper = "paper's hypervolume" in table
    if has_paper:
        header.append("the paper's hypervolume / gap / minutes")
    rows = []
    shown = (("hypervolume_at_bits", 3), ("gap", 2), ("minutes", 1))
    for row in table.to_dict("records"):
        cells = [str(row["method"]), str(row["seeds"])]
        cells.append(_cell(row["hypervolume"], row["hypervolume ±"], 3))
        cells.append(_cell(row["less ours"], row["less ours ±"], 3))
        cells += [_cell(row[name], row[f"{name} ±"], digits) for name, digits in shown]
        if has_paper:
            cells.append(_papers(*(row[f"paper's {name}"] for name in _PAPERS_FIGURES)))
        rows.append(cells)
    return _markdown(header, rows)


def budget_markdown(table: pd.DataFrame, scale: Scale) -> str:
    """Return a table of :func:`budget_table` as Markdown, one column a budget."""
    header = ["method", "seeds", *(f"{budget:g} bits" for budget in BUDGETS)]
    lines = []
    for (method, seeds), rows in table.groupby(["method", "seeds"], sort=False):
        cells = [
            f"{_cell(row[scale.value], row[f'{scale.value} ±'], 3)} ({row['average_bits']:.2f})"
            for row in rows.to_dict("records")
        ]
        lines.append([str(method), str(seeds), *cells])
    return _markdown(header, lines)


_PAPERS_FIGURES = ("hypervolume", "gap", "minutes")


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruled = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*ruled, *("| " + " | ".join(cells) + " |" for cells in rows)])


def _cell(value: float, half: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def _papers(hypervolume: float, gap: float, minutes: float) -> str:
    if np.isnan(hypervolume):
        return "–"
    return f"{hypervolume:.2f} / {'–' if np.isnan(gap) else f'{gap:+.2f}'} / {minutes:.0f}"


def paper_markdown() -> str:
    """Return the paper's table as Markdown."""
    tasks = list(PAPER["task"].unique())
    lines = [
        [str(method), *(_papers(*figures) for figures in rows[list(_PAPERS_FIGURES)].to_numpy())]
        for method, rows in PAPER.groupby("method", sort=False)
    ]
    return _markdown(["method", *tasks], lines)


def figure_of(outcomes: Mapping[str, Sequence[Outcome]], scale: Scale, title: str) -> go.Figure:
    """Return quality by budget, the mean of the seeds with their range."""
    figure = go.Figure()
    for method, found in outcomes.items():
        if not found:
            continue
        quality = np.array([[scale.quality(one) for one in outcome.served] for outcome in found])
        mean = quality.mean(axis=0)
        figure.add_scatter(
            x=BUDGETS,
            y=mean,
            name=method,
            error_y={
                "type": "data",
                "array": quality.max(axis=0) - mean,
                "arrayminus": mean - quality.min(axis=0),
            },
        )
    quantity = "metric" if scale.value == "metric" else "negative loss (nats)"
    figure.update_layout(
        title=title,
        xaxis_title="budget (average bits)",
        yaxis_title=f"{quantity} on the test split",
    )
    return figure
