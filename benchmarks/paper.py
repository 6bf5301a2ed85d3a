"""The paper's comparison in miniature: CoA-LoRA next to QLoRA, LQ-LoRA, one LoRA for all, and none.

Each method is a study with equal optimizer, data and evaluation (docs/benchmarks.md says what else
differs); what it serves at five budgets is measured on the test split. Every study that is
finished is recorded under ``data/paper``; one that was killed resumes from its last checkpoint
under ``runs/paper``.

    python -m benchmarks.paper [--recorded] [--plan NAME] [--hours H]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from benchmarks.confidence import half_width, interval
from benchmarks.paper_runs import METHODS, Outcome, outcome_of
from benchmarks.paper_tables import (
    BITS,
    OURS,
    PAPER,
    Figures,
    Scale,
    budget_markdown,
    budget_table,
    figure_of,
    figures_of,
    markdown_of,
    paper_markdown,
    table_of,
)
from benchmarks.recording import RESULTS, Benchmark
from benchmarks.zero_shot import mean_gap, zero_shot
from qsearch.errors import QsearchError

RIVALS = ("qlora", "lq-lora", "shared-lora")
MIN_SEEDS = 3
"""Seeds that a claim needs."""


@dataclass(frozen=True)
class Plan:
    """One comparison.

    Args:
        study: YAML under ``plans``.
        scale: How quality is measured.
        seeds: Seeds of each method.
        ablations: Seeds of each ablation by its name.
        zero_shot: Whether seen configurations are compared with unseen ones.
        paper_task: The task of the paper's table whose values stand next to ours.
    """

    study: Path
    scale: Scale
    seeds: int
    ablations: Mapping[str, int]
    zero_shot: bool
    paper_task: str | None

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
            ablations={
                "rank-8": 1,
                "rank-32": 1,
                "integer": 3,
                "integer-shared-lora": 3,
                "integer-ptq": 3,
            },
            zero_shot=True,
            paper_task="SST-2",
        ),
        Plan(
            study=_PLANS / "wikitext2-smollm2.yaml",
            # From guessing one of 49,152 tokens to knowing the next.
            scale=Scale("loss", worst=math.log(49_152), best=0.0, unit="nats", per_unit=1),
            seeds=3,
            # Those of the search are here: on SST-2, losses are too flat to tell searches apart.
            ablations={
                "longer": 3,
                "frozen-set": 3,
                "random-extension": 3,
                "no-segments": 3,
                "no-local-search": 3,
                "rank-32": 1,
                "rank-64": 1,
                "rank-128": 1,
            },
            zero_shot=False,
            paper_task=None,
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
    benchmark, figures, tables, refused = Benchmark("paper"), [], {}, False
    texts: list[str] = []
    for name, plan in PLANS.items():
        wanted = given.plan is None or name in given.plan
        try:
            report = report_of(benchmark, plan, stop if wanted else 0.0)
        except QsearchError as error:
            print(f"{name}: {error}", file=sys.stderr)
            refused = True
            continue
        figures.append(report.figure)
        texts.append(report.text)
        tables |= {f"{name}: {title}": table for title, table in report.tables.items()}
    if refused:
        sys.exit(1)  # The results of all plans stay as they are, rather than lose those of one.
    texts.append(f"## The paper's own values (RoBERTa-large)\n\n{paper_markdown()}\n")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "paper.md").write_text("\n".join(texts), encoding="utf-8")
    benchmark.write_page(figures, {**tables, "the paper's own values (RoBERTa-large)": PAPER})
    benchmark.write()


@dataclass(frozen=True)
class Report:
    """What is shown of a comparison.

    Args:
        figure: Quality by budget.
        text: Markdown.
        tables: Tables of the page by title.
    """

    figure: go.Figure
    text: str
    tables: Mapping[str, pd.DataFrame]


def report_of(benchmark: Benchmark, plan: Plan, stop: float) -> Report:
    """Run what is missing of a comparison; add its rows and claims, and return what is shown.

    Args:
        benchmark: Where rows and claims go.
        plan: The comparison.
        stop: Monotonic time after which no study is begun.
    """
    seeds = {**dict.fromkeys(METHODS, plan.seeds), **plan.ablations}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in seeds}
    for seed in range(max(seeds.values())):
        for name, found in outcomes.items():
            if seed >= seeds[name]:
                continue
            outcome = outcome_of(plan.study, name, seed, recorded=time.monotonic() >= stop)
            if outcome is not None:
                found.append(outcome)
    figures = figures_of(outcomes, plan.scale)
    tables = {
        "methods": table_of(figures, plan.paper_task),
        "quality by budget": budget_table(outcomes, plan.scale),
        "seen less unseen": _zero_shot_table(plan, stop),
        "machines": _machines(outcomes),
    }
    for title, table in tables.items():
        for row in table.to_dict("records"):
            rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            benchmark.row(plan=plan.name, table=title, **rounded)
    claim_against_rivals(benchmark, plan, figures)
    _claim_zero_shot(benchmark, plan, tables["seen less unseen"])
    served = {name: outcomes[name] for name in METHODS}
    shown = {title: table for title, table in tables.items() if not table.empty}
    return Report(figure_of(served, plan.scale, plan.name), _text_of(plan, figures, tables), shown)


def _text_of(plan: Plan, figures: Sequence[Figures], tables: Mapping[str, pd.DataFrame]) -> str:
    if not figures:
        return f"## {plan.name}\n\nNothing is recorded yet.\n"
    scale = plan.scale
    paper_note = (
        "The paper's values are of RoBERTa-large on its own machine, six configurations served,"
        " with a hypervolume of its own scale.\n\n"
    )
    return (
        f"## {plan.name}\n\n{markdown_of(tables['methods'], scale.unit)}\n\n"
        f"{paper_note if plan.paper_task else ''}"
        f"Means over seeds with 95 % intervals. Hypervolume is a share of the box from a"
        f" {scale.value} of {scale.worst:.4g} at {BITS[1]} bits to {scale.best:g} at {BITS[0]};"
        " gaps are from QLoRA, with integers from PTQ, means over the budgets.\n\n"
        f"{scale.value} on the test split (in brackets: average bits)\n\n"
        f"{budget_markdown(tables['quality by budget'], scale)}\n"
        f"{_zero_shot_text(tables['seen less unseen'], plan)}"
    )


def _zero_shot_text(table: pd.DataFrame, plan: Plan) -> str:
    if table.empty:
        return ""
    gaps = table["gap"].to_numpy()
    return (
        f"\n{plan.scale.value} of configurations under an adapter that was trained on them, less"
        f" theirs under one that was not: {interval(gaps)} {plan.scale.unit}"
        f" ({len(gaps)} seeds of {table['configurations'].iloc[0]} configurations)\n"
    )


def _machines(outcomes: Mapping[str, Sequence[Outcome]]) -> pd.DataFrame:
    """Return one row a study: its machine, and its minutes there."""
    return pd.DataFrame(
        [
            {"method": name, "seed": one.seed, "minutes": one.minutes, **one.machine}
            for name, found in outcomes.items()
            for one in found
        ]
    )


def _zero_shot_table(plan: Plan, stop: float) -> pd.DataFrame:
    """Return one row a seed: the metric of seen configurations less that of unseen ones."""
    rows = []
    for seed in range(plan.seeds if plan.zero_shot else 0):
        found = zero_shot(plan.study, seed, recorded=time.monotonic() >= stop)
        if found is not None:
            gap = plan.scale.per_unit * mean_gap(found)
            rows.append({"seed": seed, "configurations": len(found), "gap": gap})
    return pd.DataFrame(rows)


def _claim_zero_shot(benchmark: Benchmark, plan: Plan, table: pd.DataFrame) -> None:
    if len(table) < MIN_SEEDS:
        return
    gaps = table["gap"].to_numpy()
    for what, value in (
        ("mean", gaps.mean()),
        ("upper end of the interval", gaps.mean() + half_width(gaps)),
    ):
        benchmark.claim(
            f"{plan.name}: metric of seen configurations less that of unseen ones,"
            f" {plan.scale.unit}, {len(gaps)} seeds, {what}",
            float(value),
            0.5,
            "lower",
        )


def claim_against_rivals(benchmark: Benchmark, plan: Plan, figures: Sequence[Figures]) -> None:
    """Claim hypervolume above each rival's, apart from Shared-LoRA's, and time below QLoRA's.

    Over the seeds that both have, three at least; times over those of equal machines.
    """
    by_name = {one.method: one for one in figures}
    for name in RIVALS:
        if OURS not in by_name or name not in by_name:
            continue
        common = set(by_name[OURS].seeds) & set(by_name[name].seeds)
        if len(common) < MIN_SEEDS:
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
        alike = {
            seed
            for seed, here, there in zip(own.seeds, own.machines, rival.machines, strict=True)
            if here == there
        }
        if name == "qlora" and len(alike) >= MIN_SEEDS:
            benchmark.claim(
                f"{plan.name}: minutes until {OURS} serves all budgets over those of {name}'s"
                f" {max(rival.at(alike).evaluations)} runs, one a uniform configuration,"
                f" {len(alike)} seeds",
                float(own.at(alike).minutes.mean() / rival.at(alike).minutes.mean()),
                0.45,
                "lower",
            )


if __name__ == "__main__":
    main()
