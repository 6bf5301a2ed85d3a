"""Hypervolume by evaluations: qsearch against its peers, on real losses.

Every run is recorded under ``data/OBJECTIVE/runs``, evaluation by evaluation, and never repeated:
the command goes on where it stopped, and with what is committed it only prints the tables.

    python -m benchmarks.search [--hours H] [--recorded]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy import stats

from benchmarks.objectives import BITS, OBJECTIVES, Objective, known_objective
from benchmarks.peers import PEERS
from benchmarks.recording import RESULTS, Benchmark
from benchmarks.search_runs import Losses, Run, hypervolumes, record_run, recorded_runs
from benchmarks.searchers import SEARCHERS
from qsearch.search import reference_point
from qsearch.space import Floats

EVALUATIONS = 200
OWN_EVALUATIONS = 50
METHODS = {**SEARCHERS, **PEERS}

SLOW = ("ax", "optuna-gp")
"""Peers left out unless named: a candidate costs them many times an evaluation (measured: Ax's
default on 180 discrete parameters over 400 s, Optuna's process 4 to 12 s and rising)."""

COUNTS = (11, 25, 50, 100, 200)


def plan(objective: str, methods: Sequence[str], seeds: int) -> list[Run]:
    """Return the runs of an objective, whole seeds first; methods without chance run once."""
    return [
        Run(objective, method, start, seed)
        for seed in range(seeds)
        for start in ("warm", "cold")
        for method in methods
        if seed == 0 or method not in ("uniform", "milp")
    ]


def tables_of(objective: Objective) -> dict[Run, tuple[pd.DataFrame, Floats]]:
    """Return each recorded run of an objective with its hypervolume after each evaluation."""
    losses = Losses(objective.name, None)
    start_loss = np.array([losses(index) for index in objective.warm_start])
    reference = reference_point(start_loss, BITS)
    runs = recorded_runs(objective.name)
    best = min(float(table["loss"].min()) for table in runs.values())
    return {run: (table, hypervolumes(table, reference, best)) for run, table in runs.items()}


def at(volumes: Floats, count: int) -> float:
    """Return the hypervolume after a number of evaluations; a run that ended stays where it is."""
    return float(volumes[min(count, len(volumes)) - 1])


def report(benchmark: Benchmark, objective: Objective) -> go.Figure:
    """Add an objective's rows and claims, and return its figure."""
    tables = tables_of(objective)
    names = sorted({(run.start, run.method) for run in tables}, reverse=True)
    figure = go.Figure()
    final: dict[tuple[str, str], Floats] = {}
    for start, method in names:
        found = [
            volumes
            for run, (table, volumes) in tables.items()
            if (run.start, run.method) == (start, method) and _complete(run, table)
        ]
        if not found:
            continue
        curves = np.array([[at(v, n) for n in range(1, EVALUATIONS + 1)] for v in found])
        final[start, method] = curves
        figures: dict[str, object] = {}
        for count in COUNTS:
            if max(len(volumes) for volumes in found) >= min(count, OWN_EVALUATIONS):
                figures[f"after {count}"] = _interval(curves[:, count - 1])
        benchmark.row(
            objective=objective.name, start=start, method=method, seeds=len(found), **figures
        )
        figure.add_scatter(
            x=np.arange(1, EVALUATIONS + 1), y=curves.mean(axis=0), name=f"{method}, {start}"
        )
    own = final.get(("warm", "qsearch"))
    peers = {m: c for (s, m), c in final.items() if s == "warm" and m != "qsearch"}
    if own is not None and peers:
        best = max(peers, key=lambda method: float(peers[method][:, -1].mean()))
        benchmark.claim(
            f"{objective.name}, warm start: hypervolume of qsearch after {OWN_EVALUATIONS}"
            f" evaluations over that of the best peer ({best}) after {EVALUATIONS}",
            float(own[:, OWN_EVALUATIONS - 1].mean() / peers[best][:, -1].mean()),
            1.0,
            "higher",
        )
        areas = {
            method: curves[:, :OWN_EVALUATIONS].mean(axis=1) for method, curves in peers.items()
        }
        rival = max(areas, key=lambda method: float(areas[method].mean()))
        area = own[:, :OWN_EVALUATIONS].mean(axis=1)
        if len(area) > 1:
            tested = stats.ttest_ind(area, areas[rival], equal_var=False, alternative="greater")
            benchmark.claim(
                f"{objective.name}, warm start: p that qsearch's area under the curve of"
                f" {OWN_EVALUATIONS} evaluations is not above the best peer's ({rival})",
                float(tested.pvalue),
                0.05,
                "lower",
            )
    figure.update_layout(
        title=f"{objective.name}: hypervolume by evaluations",
        xaxis_title="evaluations",
        yaxis_title="share of the reference box",
    )
    return figure


def _complete(run: Run, table: pd.DataFrame) -> bool:
    """Return whether a run has spent its evaluations; qsearch's own count from fewer."""
    needed = OWN_EVALUATIONS if run.method in SEARCHERS else EVALUATIONS
    return len(table) >= needed or bool(table["ended"].any())


def _interval(values: Floats) -> str:
    mean = f"{values.mean():.4f}"
    if len(values) < 2:
        return mean
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {half:.4f}"


def main() -> None:
    """Record what is missing, then print the tables and write the result file and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=float("inf"), help="stop recording after")
    parser.add_argument("--recorded", action="store_true", help="record nothing")
    parser.add_argument("--objective", choices=sorted(OBJECTIVES), action="append")
    parser.add_argument("--method", choices=sorted(METHODS), action="append")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    stop = time.monotonic() + 3600 * given.hours
    methods = given.method or [name for name in METHODS if name not in SLOW]
    benchmark, figures = Benchmark("search"), []
    for name in given.objective or list(OBJECTIVES):
        if not given.recorded:
            objective = OBJECTIVES[name]()
            losses = Losses(name, objective.evaluate)
            for run in plan(name, methods, given.seeds):
                if time.monotonic() < stop:
                    started = time.monotonic()
                    record_run(run, METHODS[run.method], objective, losses, EVALUATIONS)
                    print(f"{run.name}: {time.monotonic() - started:.0f} s", flush=True)
        if recorded_runs(name):
            figures.append(report(benchmark, known_objective(name)))
    page = RESULTS / "search.html"
    page.write_text(
        "".join(
            figure.to_html(full_html=False, include_plotlyjs="cdn" if number == 0 else False)
            for number, figure in enumerate(figures)
        ),
        encoding="utf-8",
    )
    benchmark.write()


if __name__ == "__main__":
    main()
