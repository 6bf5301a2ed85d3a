"""Hypervolume by evaluations: qsearch against its peers.

Every run is recorded under ``data/OBJECTIVE/runs``, evaluation by evaluation, and never repeated:
the command resumes where it stopped, and with what is committed it only prints the tables.

    python -m benchmarks.search [--hours H] [--recorded]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go

from benchmarks import search_tables, stand_in
from benchmarks.objectives import Objective, known_objective, minilm_sst2, smollm2_wikitext2
from benchmarks.recording import Benchmark
from benchmarks.search_methods import PEERS
from benchmarks.search_runs import Losses, Run, record_run, recorded_runs
from benchmarks.searchers import SEARCHERS

METHODS = {**SEARCHERS, **PEERS}

SLOW = ("ax", "ax-one-restart", "optuna-gp")
"""Peers left out unless named: a candidate costs them many times an evaluation (measured: Ax's
default on 180 discrete parameters over 400 s, Optuna's process 5 to 25 s)."""

QUICK = (*SEARCHERS, *(name for name in PEERS if name not in SLOW))


@dataclass(frozen=True)
class Plan:
    """What is run on one objective.

    Args:
        make: Loads the objective.
        known: Returns it without its model, for what was recorded.
        evaluations: Evaluations of each run.
        own_evaluations: Evaluations after which qsearch is compared with its peers' last.
        methods: Names of methods.
        seeds: Seeds of each.
        starts: Of ``warm``, ``mixed`` and ``cold``.
    """

    make: Callable[[], Objective]
    known: Callable[[], Objective]
    evaluations: int
    own_evaluations: int
    methods: tuple[str, ...]
    seeds: int
    starts: tuple[str, ...] = ("warm", "cold")

    def runs(self, objective: str, methods: tuple[str, ...] | None = None) -> list[Run]:
        """Return the runs, whole starts first; methods without chance run once."""
        return [
            Run(objective, method, start, seed)
            for start in self.starts
            for seed in range(self.seeds)
            for method in methods or self.methods
            if seed == 0 or method not in ("uniform", "allocated")
        ]


PLANS = {
    "minilm-sst2": Plan(
        make=minilm_sst2,
        known=lambda: known_objective("minilm-sst2"),
        evaluations=200,
        own_evaluations=50,
        methods=QUICK,
        seeds=3,
    ),
    "smollm2-wikitext2": Plan(
        make=smollm2_wikitext2,
        known=lambda: known_objective("smollm2-wikitext2"),
        evaluations=100,
        own_evaluations=25,
        methods=(*SEARCHERS, "allocated", "uniform", "amq", "evopress", "optuna-tpe"),
        seeds=2,
        starts=("warm", "mixed"),
    ),
    stand_in.NAME: Plan(
        make=stand_in.stand_in,
        known=stand_in.stand_in,
        evaluations=200,
        own_evaluations=50,
        methods=QUICK,
        seeds=5,
    ),
}


def main() -> None:
    """Record what is missing, then print the tables and write the result file and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=float("inf"), help="stop recording after")
    parser.add_argument("--recorded", action="store_true", help="record nothing")
    parser.add_argument(
        "--objective", choices=sorted(PLANS), action="append", help="record on these alone"
    )
    parser.add_argument("--method", choices=sorted(METHODS), action="append", help="record these")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    stop = time.monotonic() + 3600 * given.hours
    benchmark = Benchmark("search")
    figures: list[go.Figure] = []
    for name, plan in PLANS.items():
        if not given.recorded and name in (given.objective or PLANS):
            _record(name, plan, tuple(given.method or ()) or None, stop)
        if recorded_runs(name):
            if name == stand_in.NAME:
                benchmark.row(objective=name, held_out_fit=stand_in.held_out_fit())
            figures += search_tables.report(
                benchmark, plan.known(), plan.evaluations, plan.own_evaluations
            )
    benchmark.write_page(figures)
    benchmark.write()


def _record(name: str, plan: Plan, methods: tuple[str, ...] | None, stop: float) -> None:
    objective = plan.make()
    losses = Losses(name, objective.evaluate)
    for run in plan.runs(name, methods):
        if time.monotonic() < stop:
            started = time.monotonic()
            record_run(run, METHODS[run.method], objective, losses, plan.evaluations)
            print(f"{run.name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
