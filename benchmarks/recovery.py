"""One adapter for all sizes against one for each, and none, at equal bytes: KL on unseen text.

Methods are studies, as in the paper's comparison (benchmarks/paper.py), but all lower the
divergence from the unquantized model, next to the task's loss where a head has to be trained, and
count their adapter in 8 bits. One adapter for all sizes takes as many steps as those for each size
take together. Variants of Composed LoRA show what each of its parts is worth. Every study that is
finished is recorded under ``data/recovery``; one that was killed resumes under ``runs/recovery``.

    python -m benchmarks.recovery [--recorded] [smollm2 minilm]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.objectives import ROOT
from benchmarks.paper import PLANS as PAPER
from benchmarks.paper_methods import BOTH, CALIBRATED, Method, Plan
from benchmarks.paper_runs import outcomes_of, size_name
from benchmarks.paper_tables import (
    Outcomes,
    difference_markdown,
    differences,
    minutes_markdown,
    minutes_table,
    served_markdown,
    served_table,
)
from benchmarks.recording import Benchmark, fill_table, parts_to_measure

OURS = "composed-lora"

RATIO = 0.8
"""KL over that of the best other method, at the sizes of few bits."""

MARGIN = 0.02
"""Nats that the upper end of an interval may lie above zero at any size."""

DOCS = ROOT / "docs" / "benchmarks.md"

_PLANS = Path(__file__).parent / "plans" / "recovery"
_TAUGHT = {"smollm2": ("trainer.loss=kl",), "minilm": ("trainer.loss=mixed",)}
_TASK = {"smollm2": (), "minilm": ()}
_LQ_LORA = {
    "smollm2": _TAUGHT["smollm2"],
    # It trains principal components of the weights, as in the paper's comparison.
    "minilm": (*_TAUGHT["minilm"], "trainer.learning_rate=3.0e-4"),
}
_ALL_STEPS = {
    "smollm2": ("trainer.first_steps=300", "trainer.steps=30"),
    "minilm": ("trainer.first_steps=500", "trainer.steps=100"),
}
"""Of one adapter for all sizes: as many as those for each size take together."""

_RANKS = "trainer.ranks=[0, 2, 4, 8]"
_FITTED = "quantizer.fit_scales=true"


def _for_all(
    trainer: str,
    *changes: str,
    loss: Mapping[str, tuple[str, ...]] = _TAUGHT,
    rank_is_searched: bool = False,
) -> Method:
    """Return a method of one adapter for all sizes, found by a search."""
    return Method(
        trainer,
        BOTH,
        is_searched=True,
        changes=changes,
        by_plan={plan: (*steps, *loss[plan]) for plan, steps in _ALL_STEPS.items()},
        rank_is_searched=rank_is_searched,
    )


def _alone(change: str) -> Method:
    """Return a method without an adapter."""
    return Method(
        "ptq",
        BOTH,
        is_searched=True,
        has_adapter=False,
        changes=(change,),
        by_plan={
            "smollm2": ("trainer.fine_tune=false",),
            # The head has to be trained; the adapter is merged before the weights are quantized.
            "minilm": _ALL_STEPS["minilm"],
        },
    )


METHODS: Mapping[str, Method] = {
    OURS: _for_all(OURS, _FITTED),
    "composed-lora-ranks": _for_all(OURS, _FITTED, _RANKS, rank_is_searched=True),
    "composed-lora-not-fitted": _for_all(OURS),
    "composed-lora-no-turns": _for_all(OURS, _FITTED, "trainer.residual_turns=0"),
    "composed-lora-task": _for_all(OURS, _FITTED, loss=_TASK),
    "composed-lora-mixed": _for_all(OURS, _FITTED, "trainer.loss=mixed", loss=_TASK),
    "coa-lora": _for_all("coa-lora"),
    "shared-lora": _for_all("shared-lora"),
    "lq-lora": Method("lq-lora", ("allocated",), is_searched=False, by_plan=_LQ_LORA),
    "qlora": Method("qlora", ("uniform",), is_searched=False, by_plan=_TAUGHT),
    "ptq-gptq": _alone(CALIBRATED),
    "ptq-fitted": _alone(_FITTED),
}

RIVALS = ("shared-lora", "lq-lora", "qlora", "ptq-gptq")
"""Those that the targets name."""

OTHERS = (*RIVALS, "ptq-fitted", "coa-lora")
"""Those that are measured with as many seeds."""

FEW_BITS = 3
"""How many of the sizes of a language model count as few bits: 2.3, 2.5 and 3 with an adapter."""

COMPARED = {"smollm2": "kl", "minilm": "loss"}
"""What claims of a plan are about."""

PLANS = {
    plan.name: plan
    for plan in (
        Plan(
            study=_PLANS / "smollm2.yaml",
            model="SmolLM2-135M on WikiText-2",
            megabytes=(90.1, 92.7, 99.4, 112.7, 139.2),
            bits=(2.30, 2.50, 3.00, 4.00, 6.00),
            bits_alone=(2.50, 2.70, 3.20, 4.20, 6.20),
            seeds={
                **dict.fromkeys((OURS, "composed-lora-ranks", *OTHERS), 3),
                **dict.fromkeys(
                    (
                        "composed-lora-not-fitted",
                        "composed-lora-no-turns",
                        "composed-lora-task",
                        "composed-lora-mixed",
                    ),
                    1,
                ),
            },
            better=(),
            metric=("kl", "nats", 1),
            benchmark="recovery",
            methods=METHODS,
        ),
        replace(
            PAPER["minilm"],  # At the same sizes.
            study=_PLANS / "minilm.yaml",
            seeds={
                **dict.fromkeys((OURS, "composed-lora-ranks", *OTHERS), 3),
                **dict.fromkeys(
                    ("composed-lora-not-fitted", "composed-lora-no-turns", "composed-lora-task"), 1
                ),
            },
            better=(),
            benchmark="recovery",
            methods=METHODS,
        ),
    )
}


def main() -> None:
    """Run what is missing, then write the result file and the documentation's table."""
    parts = parts_to_measure(__doc__, PLANS)
    benchmark, texts = Benchmark("recovery"), list[str]()
    for name, plan in PLANS.items():
        found = outcomes_of(plan, recorded=name not in parts)
        outcomes = {method: [one for one in found if one.method == method] for method in plan.seeds}
        texts += report(benchmark, plan, outcomes)
    fill_table(DOCS, benchmark.name, ["", *texts])
    benchmark.write()


def report(benchmark: Benchmark, plan: Plan, outcomes: Outcomes) -> list[str]:
    """Add a plan's rows and claims; return its tables as Markdown."""
    metric, compared = plan.metric[0], COMPARED[plan.name]
    served = served_table(plan, outcomes)
    if served.empty:
        return []
    for row in served.to_dict("records"):
        rounded = {str(k): round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        benchmark.row(plan=plan.name, **rounded)
    of_others = {name: outcomes[name] for name in (OURS, *OTHERS)}
    found = differences(plan, of_others, OURS, compared)
    means = served.set_index(["method", "served"])[compared]
    for place, size in enumerate(map(size_name, plan.megabytes)):
        rivals = {name: means[name, size] for name in RIVALS if (name, size) in means}
        if not rivals or (OURS, size) not in means:
            continue
        best = min(rivals, key=lambda name: rivals[name])
        what = f"{plan.model}, {size}: {compared} of {OURS}"
        if place < FEW_BITS and compared == "kl":
            ratio = means[OURS, size] / rivals[best]
            benchmark.claim(f"{what} over that of the best other ({best})", ratio, RATIO, "lower")
        (one,) = (one for one in found if (one.size, one.rival) == (size, best))
        benchmark.claim(
            f"{what} less that of the best other ({best}): upper end", one.high, MARGIN, "lower"
        )
    return [
        f"### {plan.model}: what adapters recover",
        "",
        f"{metric} on the test split, with 95 % intervals over seeds:",
        "",
        served_markdown(plan, served, metric, 3),
        "",
        f"{compared} of {OURS} less that of each other, paired, with 95 % intervals:",
        "",
        difference_markdown(plan, found, OURS),
        "",
        minutes_markdown(minutes_table(outcomes)),
        "",
    ]


if __name__ == "__main__":
    main()
