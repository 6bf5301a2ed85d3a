"""What the paper's comparison came to: each method at each size, and how CoA-LoRA differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from benchmarks.confidence import half_width
from benchmarks.method_studies import OURS
from benchmarks.paper_methods import Plan
from benchmarks.paper_runs import FULL_PRECISION, LOADED, Outcome, Served, on_task, size_name
from qsearch.claims.paired_difference import paired_difference
from qsearch.plugins.evaluation import ExampleScores

Outcomes = Mapping[str, Sequence[Outcome]]
"""By method, one a seed."""


@dataclass(frozen=True)
class Difference:
    """A method's loss at a size less another method's, over the same examples and seeds.

    Args:
        size: Name of the size.
        rival: The other method.
        value: The difference, nats.
        half: Half of its 95 % interval: of the examples and, from two seeds up, of the seeds.
        seeds: How many.
    """

    size: str
    rival: str
    value: float
    half: float
    seeds: int

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """The upper end of the interval."""
        return self.value + self.half


def difference(
    own: Mapping[int, ExampleScores], other: Mapping[int, ExampleScores], metric: str = "loss"
) -> tuple[float, float]:
    """Return the mean over seeds of a method's loss less another's, and half of its interval.

    Or that of a metric of the examples.

    The interval adds the squares of two halves: that of the examples, of whose differences the mean
    over the seeds is taken first, and that of the seeds (Student's t), where there are two or more.

    Args:
        own: Scores of the same examples by seed.
        other: Those of the other method, of the same seeds.
        metric: ``loss``, or such a metric.
    """

    def values(scores: ExampleScores) -> Sequence[float]:
        return scores.losses if metric == "loss" else scores.metrics[metric]

    mean, other_mean = (
        np.mean([values(scores[seed]) for seed in own], axis=0).tolist() for scores in (own, other)
    )
    over_examples = paired_difference(mean, other_mean, next(iter(own.values())).weights)
    over_seeds = [
        paired_difference(values(own[seed]), values(other[seed]), own[seed].weights).difference
        for seed in own
    ]
    halves = [over_examples.half_width]
    if len(over_seeds) > 1:
        halves.append(half_width(np.array(over_seeds)))
    return over_examples.difference, math.hypot(*halves)


def differences(
    plan: Plan,
    outcomes: Outcomes,
    method: str = OURS,
    metric: str = "loss",
    tested_on: str | None = None,
) -> list[Difference]:
    """Return how a method differs from each other at each size, over the seeds of both."""
    found = []
    ours = {one.seed: one for one in outcomes.get(method, ())}
    for rival, theirs in outcomes.items():
        common = {one.seed: one for one in theirs if one.seed in ours}
        if rival == method or not common:
            continue
        for size in (size_name(one, tested_on) for one in plan.megabytes):
            value, half = difference(
                {seed: ours[seed].examples[size] for seed in common},
                {seed: one.examples[size] for seed, one in common.items()},
                metric,
            )
            found.append(Difference(size, rival, value, half, len(common)))
    return found


def served_table(plan: Plan, outcomes: Outcomes, more: Sequence[str] = ()) -> pd.DataFrame:
    """Return one row for each method and what it serves: means over seeds with half widths.

    Of the loss, of the plan's metric and of those that are named besides.
    """
    rows = []
    for method, found in outcomes.items():
        for position, first in enumerate(found[0].served if found else ()):
            served = [outcome.served[position] for outcome in found]
            values = {
                "loss": np.array([one.loss for one in served]),
                **{
                    metric: np.array([one.metrics[metric][0] for one in served])
                    for metric in (plan.metric[0], *more)
                    if metric in served[0].metrics
                },
            }
            rows.append(
                {
                    "method": method,
                    "seeds": len(found),
                    "served": first.name,
                    "bytes": _mean(served, "nbytes"),
                    "average_bits": _mean(served, "average_bits"),
                }
                | {name: float(value.mean()) for name, value in values.items()}
                | {f"{name} ±": half_width(value) for name, value in values.items()}
            )
    return pd.DataFrame(rows)


def _mean(served: Sequence[Served], name: str) -> float:
    values = [getattr(one, name) for one in served]
    return math.nan if None in values else float(np.mean(values))


def served_markdown(
    plan: Plan, table: pd.DataFrame, value: str, digits: int, tested_on: str | None = None
) -> str:
    """Return the loss or the metric as Markdown: one row a method, one column a size.

    Args:
        plan: The comparison.
        table: That of :func:`served_table`.
        value: ``loss``, or the plan's metric.
        digits: Decimals.
        tested_on: Another task that they are tested on.
    """
    sizes = [size_name(one, tested_on) for one in plan.megabytes]
    models = [on_task(name, tested_on) for name in (FULL_PRECISION, LOADED)]
    columns = [*sizes, *(name for name in models if name in set(table["served"]))]
    lines = []
    for (method, seeds), rows in table.groupby(["method", "seeds"], sort=False):
        by_name = rows.set_index("served")
        means, halves = by_name[value], by_name[f"{value} ±"]
        cells = [
            _cell(means[name], halves[name], digits) if name in means else "–" for name in columns
        ]
        lines.append([str(method), str(seeds), *cells])
    return markdown(["method", "seeds", *columns], lines)


def difference_markdown(found: Sequence[Difference], method: str = "CoA-LoRA") -> str:
    """Return a method's loss less each other's as Markdown, one column a size."""
    sizes = list(dict.fromkeys(one.size for one in found))
    lines = []
    for rival in dict.fromkeys(one.rival for one in found):
        own = {one.size: one for one in found if one.rival == rival}
        cells = [_cell(own[size].value, own[size].half, 4, sign="+") for size in sizes]
        lines.append([rival, str(own[sizes[0]].seeds), *cells])
    return markdown([f"{method} less", "seeds", *sizes], lines)


def minutes_table(outcomes: Outcomes) -> pd.DataFrame:
    """Return one row a study: its minutes, evaluations and steps, and its machine."""
    return pd.DataFrame(
        [
            {
                "method": one.method,
                "seed": one.seed,
                "minutes": one.minutes,
                "train_minutes": one.train_minutes,
                "evaluations": one.evaluations,
                "steps": one.steps,
                **one.machine,
            }
            for found in outcomes.values()
            for one in found
        ]
    )


def minutes_markdown(table: pd.DataFrame) -> str:
    """Return the minutes of each method as Markdown, means over seeds."""
    means = table.groupby("method", sort=False)[
        ["minutes", "train_minutes", "evaluations", "steps"]
    ].mean()
    lines = [
        [str(method), *(f"{value:.0f}" for value in values)]
        for method, values in zip(means.index, means.to_numpy(), strict=True)
    ]
    return markdown(["method", "minutes", "of them training", "evaluations", "steps"], lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    ruled = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*ruled, *("| " + " | ".join(cells) + " |" for cells in rows)])


def _cell(value: float, half: float, digits: int, sign: str = "") -> str:
    if math.isnan(value):
        return "–"
    shown = f"{value:{sign}.{digits}f}"
    return shown if math.isnan(half) else f"{shown} ± {half:.{digits}f}"


def figure_of(plan: Plan, table: pd.DataFrame) -> go.Figure:
    """Return the loss on the test split by bytes, the mean of the seeds of each method."""
    figure = go.Figure()
    sizes = table[table["served"].isin([size_name(one) for one in plan.megabytes])]
    for method, rows in sizes.groupby("method", sort=False):
        figure.add_scatter(
            x=rows["bytes"] / 1e6,
            y=rows["loss"],
            name=str(method),
            error_y={"type": "data", "array": rows["loss ±"].fillna(0)},
        )
    figure.update_layout(
        title=plan.model,
        xaxis_title="weight files with adapter (MB)",
        yaxis_title="loss on the test split (nats)",
    )
    return figure
