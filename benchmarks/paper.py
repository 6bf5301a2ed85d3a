"""The paper's comparison in miniature: CoA-LoRA beside QLoRA, LQ-LoRA, one LoRA for all, and none.

Each method is a study with equal optimizer, data, steps and evaluation; what it serves at five
budgets is measured on the test split. Every study that is finished is recorded under
``data/paper``; one that was killed goes on from its last checkpoint under ``runs/paper``.

    python -m benchmarks.paper [--recorded] [--plan NAME] [--hours H]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from benchmarks.confidence import half_width
from benchmarks.paper_runs import ABLATIONS, METHODS, Outcome, outcome_of
from benchmarks.paper_tables import (
    Figures,
    Scale,
    figure_of,
    figures_of,
    markdown_of,
    paper_markdown,
    table_of,
)
from benchmarks.recording import RESULTS, Benchmark
from benchmarks.zero_shot import mean_gap, zero_shot
from qsearch.errors import QsearchError

OURS = "coa-lora"
RIVALS = ("qlora", "lq-lora", "shared-lora")
LEAST_SEEDS = 2
"""Seeds that a claim needs."""


@dataclass(frozen=True)
class Plan:
    """One comparison.

    Args:
        study: YAML under ``plans``.
        scale: How quality is measured.
        seeds: Seeds of each method.
        ablations: Names of ablations, run with the same seeds.
        zero_shot: Whether seen configurations are compared with unseen ones.
    """

    study: Path
    scale: Scale
    seeds: int
    ablations: tuple[str, ...]
    zero_shot: bool

    @property
    def name(self) -> str:
        """Name of the comparison."""
        return self.study.stem


_PLANS = Path(__file__).parent / "plans"

PLANS = {
    plan.name: plan
    for plan in (
        Plan(
            study=_PLANS / "sst2-minilm.yaml",
            scale=Scale("metric", worst=0.5, best=1.0, unit="points", per_unit=100),
            seeds=3,
            ablations=tuple(name for name in ABLATIONS if name not in ("rank-64", "rank-128")),
            zero_shot=True,
        ),
        Plan(
            study=_PLANS / "wikitext2-smollm2.yaml",
            # From guessing one of 49,152 tokens to knowing the next.
            scale=Scale("loss", worst=math.log(49_152), best=0.0, unit="nats", per_unit=1),
            seeds=3,
            ablations=("rank-32", "rank-64", "rank-128"),
            zero_shot=False,
        ),
    )
}


def main() -> None:
    """Run what is missing, then write the tables, the result file and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recorded", action="store_true", help="run nothing")
    parser.add_argument("--plan", choices=sorted(PLANS), action="append", help="these alone")
    parser.add_argument("--hours", type=float, default=float("inf"), help="begin nothing after")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    stop = 0.0 if given.recorded else time.monotonic() + 3600 * given.hours
    benchmark, figures, texts, refused = Benchmark("paper"), [], [], False
    for name in given.plan or PLANS:
        try:
            figure, text = report(benchmark, PLANS[name], stop)
        except QsearchError as error:
            print(f"{name}: {error}", file=sys.stderr)
            refused = True
            continue
        figures.append(figure)
        texts.append(text)
    texts.append(f"## The paper's own figures (RoBERTa-large)\n\n{paper_markdown()}\n")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "paper.md").write_text("\n".join(texts), encoding="utf-8")
    benchmark.write_page(figures)
    benchmark.write()
    if refused:
        sys.exit(1)


def report(benchmark: Benchmark, plan: Plan, stop: float) -> tuple[go.Figure, str]:
    """Add a comparison's rows and claims; return its figure and its Markdown.

    Args:
        benchmark: Where rows and claims go.
        plan: The comparison.
        stop: Monotonic time after which no study is begun.
    """
    outcomes: dict[str, list[Outcome]] = {name: [] for name in (*METHODS, *plan.ablations)}
    for seed in range(plan.seeds):
        for name, found in outcomes.items():
            outcome = outcome_of(plan.study, name, seed, recorded=time.monotonic() >= stop)
            if outcome is not None:
                found.append(outcome)
    gaps = [
        mean_gap(found)
        for seed in range(plan.seeds)
        if plan.zero_shot
        and (found := zero_shot(plan.study, seed, recorded=time.monotonic() >= stop)) is not None
    ]
    figures = figures_of(outcomes, plan.scale)
    table = table_of(figures)
    for row in table.to_dict("records"):
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        benchmark.row(plan=plan.name, **rounded)
    claim_against_rivals(benchmark, plan, figures)
    if gaps:
        benchmark.claim(
            f"{plan.name}: metric of seen configurations less that of unseen ones,"
            f" {plan.scale.unit}, mean of {len(gaps)} seeds"
            f" (± {plan.scale.per_unit * half_width(np.array(gaps)):.2f})",
            plan.scale.per_unit * float(np.mean(gaps)),
            0.5,
            "lower",
        )
    served = {name: outcomes[name] for name in METHODS}
    shown = markdown_of(table, plan.scale.unit) if figures else "Nothing is recorded yet."
    text = f"## {plan.name}\n\n{shown}\n"
    return figure_of(served, plan.scale, plan.name), text


def claim_against_rivals(benchmark: Benchmark, plan: Plan, figures: Sequence[Figures]) -> None:
    """Claim hypervolume above each rival's, apart from Shared-LoRA's, and time below QLoRA's.

    Over the seeds that both have; two at least.
    """
    by_name = {one.method: one for one in figures}
    for name in RIVALS:
        if OURS not in by_name or name not in by_name:
            continue
        common = set(by_name[OURS].seeds) & set(by_name[name].seeds)
        if len(common) < LEAST_SEEDS:
            continue
        own, rival = by_name[OURS].at(common), by_name[name].at(common)
        benchmark.claim(
            f"{plan.name}: hypervolume of {OURS} less that of {name}, {len(common)} seeds",
            float(own.hypervolume.mean() - rival.hypervolume.mean()),
            0.0,
            "higher",
        )
        if name == "shared-lora":
            lower = own.hypervolume.mean() - half_width(own.hypervolume)
            upper = rival.hypervolume.mean() + half_width(rival.hypervolume)
            benchmark.claim(
                f"{plan.name}: lower end of {OURS}'s interval of hypervolume less the upper end"
                f" of {name}'s",
                float(lower - upper),
                0.0,
                "higher",
            )
        if name == "qlora":
            benchmark.claim(
                f"{plan.name}: minutes until {OURS} serves all budgets over those of {name}'s"
                f" {max(rival.evaluations)} runs, one a uniform configuration",
                float(own.minutes.mean() / rival.minutes.mean()),
                0.45,
                "lower",
            )


if __name__ == "__main__":
    main()
