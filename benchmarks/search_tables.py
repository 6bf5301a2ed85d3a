"""What recorded runs say: hypervolume by evaluations, areas, budgets, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy import stats

from benchmarks.confidence import interval
from benchmarks.objectives import BITS, Objective
from benchmarks.recording import Benchmark
from benchmarks.sampling_noise import fitted_to, sampling_noise_std
from benchmarks.search_runs import (
    Run,
    by_evaluation,
    hypervolumes,
    indices_of,
    recorded_runs,
    reference_box,
)
from benchmarks.searchers import SEARCHERS
from qsearch._arrays import Floats

BUDGETS = np.linspace(*BITS, 51)
"""Average bits at which fronts are compared."""

STARTS = ("warm", "mixed", "cold")

ALLOCATORS = ("allocated", "uniform")
"""Peers that need no search; qsearch must never be below them."""

Curves = dict[tuple[str, str], Floats]
"""By start and method: one row a seed, one column an evaluation."""


def report(
    benchmark: Benchmark, objective: Objective, evaluations: int, own_evaluations: int
) -> list[go.Figure]:
    """Add an objective's rows and claims, and return its figures.

    Args:
        benchmark: Where rows and claims go.
        objective: The objective.
        evaluations: Evaluations of each complete run.
        own_evaluations: Evaluations after which qsearch is compared with its peers' last.
    """
    recorded = recorded_runs(objective.name)
    runs = {run: table for run, table in recorded.items() if _complete(table, evaluations)}
    if not runs:
        return []
    reference, best = reference_box(objective)

    def curve(table: pd.DataFrame) -> Floats:
        return by_evaluation(hypervolumes(table, reference, best), evaluations)

    curves = _gathered(runs, curve)
    rivals = _gathered(recorded, curve) | curves
    counts = sorted({len(objective.warm_start), own_evaluations // 2, own_evaluations})
    counts = [*counts, 2 * own_evaluations, evaluations]
    for (start, method), found in curves.items():
        figures: dict[str, object] = {
            f"after {count}": interval(found[:, count - 1]) for count in counts
        }
        figures["area"] = interval(found.mean(axis=1))
        benchmark.row(
            objective=objective.name, start=start, method=method, seeds=len(found), **figures
        )
    for run, table in recorded.items():
        if run not in runs:
            so_far = hypervolumes(table, reference, best)
            benchmark.row(
                objective=objective.name,
                start=run.start,
                method=run.method,
                seed=run.seed,
                evaluations=len(table),
                **{f"after {n}": f"{so_far[n - 1]:.4f}" for n in counts if n <= len(table)},
            )
    for method in SEARCHERS:
        for start in STARTS:
            compared = Compared(benchmark, objective.name, start, method)
            _claim_fewer_evaluations(compared, curves, rivals, own_evaluations)
            _claim_area(compared, curves, rivals)
            if start != "cold":
                for count in (own_evaluations, evaluations):
                    _claim_allocators(compared, objective, runs, count)
    return [_figure(objective.name, curves)]


def _complete(table: pd.DataFrame, evaluations: int) -> bool:
    return len(table) >= evaluations or bool(table["ended"].any())


def _gathered(runs: dict[Run, pd.DataFrame], of_table: Callable[[pd.DataFrame], Floats]) -> Curves:
    names = sorted({(run.start, run.method) for run in runs}, reverse=True)
    return {
        name: np.array([of_table(t) for r, t in runs.items() if (r.start, r.method) == name])
        for name in names
    }


@dataclass(frozen=True)
class Compared:
    """What claims are of.

    Args:
        benchmark: Where they go.
        objective: Name of the objective.
        start: One of ``STARTS``.
        method: qsearch, or a variant of it.
    """

    benchmark: Benchmark
    objective: str
    start: str
    method: str

    @property
    def title(self) -> str:
        """How its claims begin."""
        return f"{self.objective}, {self.start} start"

    def own(self, curves: Curves) -> Floats | None:
        """Return the method's curves (seeds × evaluations), if there are any."""
        return curves.get((self.start, self.method))

    def peers(self, rivals: Curves) -> dict[str, Floats]:
        """Return the curves of its peers by name.

        One of which no run is complete counts with what it has so far, which is a lower bound.
        """
        return {m: c for (s, m), c in rivals.items() if s == self.start and m not in SEARCHERS}


def _claim_fewer_evaluations(
    compared: Compared, curves: Curves, rivals: Curves, own_evaluations: int
) -> None:
    own, peers = compared.own(curves), compared.peers(rivals)
    if own is None or not peers:
        return
    best = max(peers, key=lambda method: float(peers[method][:, -1].mean()))
    evaluations = own.shape[1]
    compared.benchmark.claim(
        f"{compared.title}: hypervolume of {compared.method} after {own_evaluations} evaluations"
        f" over that of the best peer ({best}) after {evaluations}",
        float(own[:, own_evaluations - 1].mean() / peers[best][:, -1].mean()),
        1.0,
        "higher",
    )


def _claim_area(compared: Compared, curves: Curves, rivals: Curves) -> None:
    own, peers = compared.own(curves), compared.peers(rivals)
    if own is None or not peers:
        return
    rival = max(peers, key=lambda method: float(peers[method].mean()))
    areas, others = own.mean(axis=1), peers[rival].mean(axis=1)
    compared.benchmark.claim(
        f"{compared.title}: area under the curve of {compared.method} over the best peer's"
        f" ({rival})",
        float(areas.mean() / others.mean()),
        1.0,
        "higher",
    )
    p_value = p_value_above(areas, others)
    if p_value is not None:
        compared.benchmark.claim(
            f"{compared.title}: one-sided p-value (Welch's t-test) of {compared.method}'s area"
            f" being above {rival}'s",
            p_value,
            0.05,
            "lower",
        )


def p_value_above(own: Floats, others: Floats) -> float | None:
    """Return the one-sided p-value of the mean of ``own`` being above that of ``others``.

    Seeds that all give one value say nothing of chance, so that value counts as known; if both do,
    there is no chance to test against, and None is returned.

    Args:
        own: One figure a seed (n).
        others: The same of another method (m).
    """
    if np.ptp(own) == 0 and np.ptp(others) == 0:
        return None
    if np.ptp(own) == 0:
        return float(stats.ttest_1samp(others, own[0], alternative="less").pvalue)
    if np.ptp(others) == 0:
        return float(stats.ttest_1samp(own, others[0], alternative="greater").pvalue)
    return float(stats.ttest_ind(own, others, equal_var=False, alternative="greater").pvalue)


def _claim_allocators(
    compared: Compared, objective: Objective, runs: dict[Run, pd.DataFrame], count: int
) -> None:
    """Claim that no seed's loss exceeds an allocator's by more than sampling noise."""

    def tables_of(method: str) -> list[pd.DataFrame]:
        wanted = (compared.start, method)
        found = (table for run, table in runs.items() if (run.start, run.method) == wanted)
        return [table.iloc[:count] for table in found]

    own = tables_of(compared.method)
    for name in ALLOCATORS:
        others = tables_of(name)
        if not own or not others:
            continue
        worst = max(_excess(objective, table, other) for table in own for other in others)
        compared.benchmark.claim(
            f"{compared.title}, {count} evaluations each: greatest excess of"
            f" {compared.method}'s loss over {name}'s within any budget, in standard deviations of"
            f" its sampling noise ({worst[1]:.4f} nats at {worst[2]:.2f} bits)",
            worst[0],
            2.0,
            "lower",
        )


def _excess(
    objective: Objective, own: pd.DataFrame, other: pd.DataFrame
) -> tuple[float, float, float]:
    """Return the greatest excess (standard deviations of sampling noise; nats) and its budget."""
    tables = [own, other]
    bits = [table["average_bits"].to_numpy() for table in tables]
    losses = [table["loss"].to_numpy() for table in tables]
    budgets = BUDGETS[max(found.min() for found in bits) <= BUDGETS]
    best = [
        np.where(found[None] <= budgets[:, None], loss[None], np.inf).argmin(axis=1)
        for found, loss in zip(bits, losses, strict=True)
    ]
    chosen = [indices_of(table)[at] for table, at in zip(tables, best, strict=True)]
    excess = losses[0][best[0]] - losses[1][best[1]]
    surrogate = fitted_to(objective, indices_of(own), losses[0])
    sampling_noise = sampling_noise_std(surrogate, objective.examples, *chosen)
    scaled = np.where(excess == 0, 0.0, excess / np.maximum(sampling_noise, 1e-12))
    worst = int(scaled.argmax())
    return float(scaled[worst]), float(excess[worst]), float(budgets[worst])


def _figure(objective: str, curves: Curves) -> go.Figure:
    figure = go.Figure()
    for (start, method), found in curves.items():
        figure.add_scatter(
            x=np.arange(1, found.shape[1] + 1), y=found.mean(axis=0), name=f"{method}, {start}"
        )
    figure.update_layout(
        title=f"{objective}: hypervolume by evaluations",
        xaxis_title="evaluations",
        yaxis_title="share of the reference box",
    )
    return figure
