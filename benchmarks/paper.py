"""The paper's comparison at equal bytes: CoA-LoRA, QLoRA, LQ-LoRA, one LoRA for all, and PTQ.

Each method is a study with equal data, steps and evaluation (docs/benchmarks.md says what else
differs). What it serves at five sizes of all weight files, adapter included, is measured on a split
that no search saw, and compared example by example. Every study that is finished is recorded under
``data/paper``; one that was killed resumes from its last checkpoint under ``runs/paper``.

    python -m benchmarks.paper [--recorded] [--plan NAME]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from benchmarks.method_studies import OURS
from benchmarks.objectives import ROOT
from benchmarks.paper_methods import Plan
from benchmarks.paper_runs import outcomes_of, size_name
from benchmarks.paper_tables import (
    Difference,
    Outcomes,
    difference_markdown,
    differences,
    figure_of,
    minutes_markdown,
    minutes_table,
    served_markdown,
    served_table,
)
from benchmarks.recording import Benchmark, fill_table
from qsearch.errors import QsearchError

MARGIN = 0.02
"""Nats that the upper end of an interval may lie above zero where CoA-LoRA is not worse."""

DOCS = ROOT / "docs" / "benchmarks.md"

_PLANS = Path(__file__).parent / "plans" / "paper"
_EVERY = (OURS, "shared-lora", "ptq", "ptq-gptq", "lq-lora", "qlora")

PLANS = {
    plan.name: plan
    for plan in (
        Plan(
            study=_PLANS / "minilm.yaml",
            model="MiniLM-L6 on SST-2",
            megabytes=(28.0, 28.4, 29.0, 30.0, 31.0),
            bits=(2.58, 2.88, 3.33, 4.09, 4.84),
            bits_alone=(2.84, 3.14, 3.59, 4.35, 5.10),
            seeds=dict.fromkeys(_EVERY, 3),
            better=(28.0,),
            metric=("accuracy", "points", 100),
        ),
        Plan(
            study=_PLANS / "smollm2.yaml",
            model="SmolLM2-135M on WikiText-2",
            megabytes=(92.0, 96.0, 102.0, 115.0, 130.0),
            bits=(2.45, 2.76, 3.21, 4.19, 5.32),
            bits_alone=(2.65, 2.95, 3.40, 4.38, 5.51),
            seeds=dict.fromkeys(_EVERY, 3),
            better=(92.0, 96.0, 102.0),
            metric=("kl", "nats", 1),
        ),
        Plan(
            study=_PLANS / "mpnet.yaml",
            model="MPNet on SST-2",
            megabytes=(78.0, 81.0, 85.0, 92.0, 100.0),
            bits=(2.58, 2.86, 3.24, 3.90, 4.65),
            bits_alone=(2.71, 2.99, 3.37, 4.03, 4.78),
            seeds=dict.fromkeys((OURS, "shared-lora", "ptq", "ptq-gptq"), 1),
            better=(78.0,),
            metric=("accuracy", "points", 100),
        ),
        Plan(
            study=_PLANS / "gemma3.yaml",
            model="Gemma 3 270M on WikiText-2, without training",
            megabytes=(85.0, 100.0, 120.0, 150.0, 190.0),
            bits=(),
            bits_alone=(2.53, 2.97, 3.57, 4.47, 5.66),
            seeds=dict.fromkeys(("ptq", "ptq-gptq", "uniform-gptq"), 1),
            better=(),
            metric=("kl", "nats", 1),
        ),
    )
}


def main() -> None:
    """Run what is missing, then write the result file, the page and the documentation's tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recorded", action="store_true", help="run nothing")
    parser.add_argument("--plan", choices=sorted(PLANS), action="append", help="run these alone")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    benchmark, figures, texts = Benchmark("paper"), [], []
    tables: dict[str, pd.DataFrame] = {}
    refused = False
    for name, plan in PLANS.items():
        runs = not given.recorded and (given.plan is None or name in given.plan)
        try:
            found = outcomes_of(plan, recorded=not runs)
        except QsearchError as error:
            print(f"{name}: {error}", file=sys.stderr)
            refused = True
            continue
        outcomes = {method: [one for one in found if one.method == method] for method in plan.seeds}
        figure, text, own = report_of(benchmark, plan, outcomes)
        figures.append(figure)
        texts.append(text)
        tables |= {f"{plan.model}: {title}": table for title, table in own.items()}
    if refused:
        sys.exit(1)  # The results of all plans stay as they are, rather than lose those of one.
    fill_table(DOCS, benchmark.name, ["", *texts])
    benchmark.write_page(figures, tables)
    benchmark.write()


def report_of(
    benchmark: Benchmark, plan: Plan, outcomes: Outcomes
) -> tuple[go.Figure, str, dict[str, pd.DataFrame]]:
    """Add a comparison's rows and claims; return its figure, its Markdown and its tables.

    Args:
        benchmark: Where rows and claims go.
        plan: The comparison.
        outcomes: Its outcomes by method, one a seed.
    """
    served, minutes = served_table(plan, outcomes), minutes_table(outcomes)
    if served.empty:
        return go.Figure(), f"### {plan.model}\n\nNothing is recorded yet.\n", {}
    found = differences(plan, outcomes)
    compared = pd.DataFrame(
        [
            {"size": one.size, "less": one.rival, "seeds": one.seeds}
            | {"difference": one.value, "low": one.low, "high": one.high}
            for one in found
        ]
    )
    tables = {"served": served, "loss of CoA-LoRA less others'": compared, "studies": minutes}
    for title, table in tables.items():
        for row in table.to_dict("records"):
            rounded = {str(k): round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            benchmark.row(plan=plan.name, table=title, **rounded)
    claim_differences(benchmark, plan, found)
    figure = figure_of(plan, served)
    return figure, _text_of(plan, served, found, minutes), tables


def claim_differences(benchmark: Benchmark, plan: Plan, found: list[Difference]) -> None:
    """Claim that CoA-LoRA is not worse at any size, and better at those that the plan names."""
    better = {size_name(one) for one in plan.better}
    for one in found:
        what = f"{plan.model}, {one.size}: loss of {OURS} less that of {one.rival}, nats"
        benchmark.claim(f"{what}: upper end, not worse", one.high, MARGIN, "lower")
        if one.size in better:
            benchmark.claim(f"{what}: upper end, better", one.high, 0.0, "lower")


def _text_of(
    plan: Plan, served: pd.DataFrame, found: list[Difference], minutes: pd.DataFrame
) -> str:
    metric, unit, scale = plan.metric
    scaled = served.assign(**{name: served[name] * scale for name in (metric, f"{metric} ±")})
    parts = [
        f"### {plan.model}",
        "Loss on the test split, nats: means over seeds with 95 % intervals over seeds.",
        served_markdown(plan, served, "loss", 3),
        f"{metric}, {unit}:",
        served_markdown(plan, scaled, metric, 1 if scale == 100 else 3),
    ]
    if found:
        parts += [
            "Loss of CoA-LoRA less that of each other method, over the same examples and seeds,"
            " with 95 % intervals:",
            difference_markdown(found),
        ]
    parts += ["Minutes of a study, until it serves all sizes:", minutes_markdown(minutes)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
