"""One adapter for all sizes against one for each, and none, at equal bytes: KL on unseen text.

Methods are studies, as in the paper's comparison (benchmarks/paper.py), but of one round, which
evaluates its first set. All lower the divergence from the unquantized model, next to the task's
loss where a head has to be trained, and count their adapter in 8 bits. One adapter for all sizes
takes as many steps as those for each size take together. Variants of Composed LoRA show what each
of its parts is worth. Every study that is finished is recorded under ``data/recovery``; one that
was killed resumes under ``runs/recovery``.

    python -m benchmarks.recovery [--recorded] [smollm2 minilm mpnet gemma3]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

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
from benchmarks.recovery_sets import MARGIN, compared, report_sets

OURS = "composed-lora"

RATIO = 0.8
"""KL over that of the best other method, at the sizes of few bits."""

DOCS = ROOT / "docs" / "benchmarks.md"

_PLANS = Path(__file__).parent / "plans" / "recovery"
_LANGUAGE_MODELS = ("smollm2", "gemma3")
_CLASSIFIERS = ("minilm", "mpnet")
_TAUGHT = {
    **dict.fromkeys(_LANGUAGE_MODELS, ("trainer.loss=kl",)),
    **dict.fromkeys(_CLASSIFIERS, ("trainer.loss=mixed",)),
}
_TASK: Mapping[str, tuple[str, ...]] = dict.fromkeys((*_LANGUAGE_MODELS, *_CLASSIFIERS), ())
_LQ_LORA = {
    **_TAUGHT,
    # It trains principal components of the weights, as in the paper's comparison.
    "minilm": (*_TAUGHT["minilm"], "trainer.learning_rate=3.0e-4"),
}
_ALL_STEPS = {
    "smollm2": ("trainer.first_steps=300",),
    "minilm": ("trainer.first_steps=600",),
    "mpnet": ("trainer.first_steps=200",),
    "gemma3": ("trainer.first_steps=100",),
}
"""Of one adapter for all sizes: as many as those for each size take together."""

_DOCSTRINGS = {
    "name": "causal-lm",
    "docstrings": {},
    "length": 512,
    "train_tokens": 1024,
    "validation_tokens": 1024,
    "test_tokens": 16384,
}
"""A second text, which no model is trained, calibrated or chosen on."""

_RANKS = "trainer.ranks=[0, 8]"
_ONE_RANK = "trainer.residual_turns=0"
_BY_INPUTS = "trainer.calibrate_by=inputs"
_CALIBRATED = ("quantizer.rounding=gptq", "quantizer.fit_scales=true")
"""What weights below an adapter are rounded by, and those without one."""


def _for_all(
    trainer: str,
    *changes: str,
    loss: Mapping[str, tuple[str, ...]] = _TAUGHT,
    rank_is_searched: bool = False,
) -> Method:
    """Return a method of one adapter for all sizes."""
    return Method(
        trainer,
        BOTH,
        is_searched=True,
        changes=changes,
        by_plan={plan: (*steps, *loss[plan]) for plan, steps in _ALL_STEPS.items()},
        rank_is_searched=rank_is_searched,
    )


def _alone(*changes: str) -> Method:
    """Return a method without an adapter."""
    return Method(
        "ptq",
        BOTH,
        is_searched=True,
        has_adapter=False,
        changes=changes,
        by_plan={
            **dict.fromkeys(_LANGUAGE_MODELS, ("trainer.fine_tune=false",)),
            # The head has to be trained; the adapter is merged before the weights are quantized.
            **{plan: _ALL_STEPS[plan] for plan in _CLASSIFIERS},
        },
    )


METHODS: Mapping[str, Method] = {
    # The search says for each layer whether it has an adapter.
    OURS: _for_all("composed-lora", *_CALIBRATED, _RANKS, rank_is_searched=True),
    "rank-8": _for_all("composed-lora", *_CALIBRATED, _ONE_RANK),
    "rank-8-nearest": _for_all("composed-lora"),
    "rank-8-by-inputs": _for_all("composed-lora", *_CALIBRATED, _ONE_RANK, _BY_INPUTS),
    "rank-8-half-shared": _for_all(
        "composed-lora", *_CALIBRATED, _ONE_RANK, "trainer.residual_rank=4"
    ),
    "rank-8-task": _for_all("composed-lora", *_CALIBRATED, _ONE_RANK, loss=_TASK),
    "rank-8-mixed": _for_all(
        "composed-lora", *_CALIBRATED, _ONE_RANK, "trainer.loss=mixed", loss=_TASK
    ),
    "coa-lora": _for_all("coa-lora"),
    "shared-lora": _for_all("shared-lora"),
    "shared-lora-calibrated": _for_all("shared-lora", *_CALIBRATED),
    "lq-lora": Method("lq-lora", ("allocated",), is_searched=False, by_plan=_LQ_LORA),
    "qlora": Method("qlora", ("uniform",), is_searched=False, by_plan=_TAUGHT),
    "ptq-gptq": _alone(CALIBRATED, _BY_INPUTS),
    "ptq-calibrated": _alone(*_CALIBRATED),
}

RIVALS = ("shared-lora", "lq-lora", "qlora", "ptq-gptq")
"""Those that the targets name."""

OTHERS = (*RIVALS, "ptq-calibrated", "coa-lora")
"""Those that are measured with as many seeds."""

PARTS = (
    "rank-8",
    "rank-8-nearest",
    "rank-8-by-inputs",
    "rank-8-half-shared",
    "rank-8-task",
    "shared-lora-calibrated",
)
"""Variants of one seed, which show what a part is worth."""

FEW_BITS = 3
"""How many of the sizes of a language model count as few bits: 2.3, 2.5 and 3 with an adapter."""

_OURS_AND_ALONE = dict.fromkeys((OURS, "ptq-calibrated"), 1)

SETS = ("smollm2",)
"""Plans whose adapter for all is compared with one for each configuration alone."""

_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "smollm2": {
        "megabytes": (90.1, 92.7, 99.4, 112.7, 139.2),
        "bits": (2.30, 2.50, 3.00, 4.00, 6.00),
        "bits_alone": (2.50, 2.70, 3.20, 4.20, 6.20),
        "seeds": {
            **dict.fromkeys((OURS, *OTHERS), 3),
            **dict.fromkeys((*PARTS, "rank-8-mixed"), 1),
        },
        "other_task": ("docstrings", _DOCSTRINGS),
    },
    "minilm": {
        "seeds": {**dict.fromkeys((OURS, *OTHERS), 3), **dict.fromkeys(PARTS, 1)},
    },
    "mpnet": {"seeds": _OURS_AND_ALONE},
    "gemma3": {
        "model": "Gemma 3 270M on WikiText-2",
        "megabytes": (366.7, 369.2, 375.5, 388.0, 413.1),
        "bits": (2.30, 2.50, 3.00, 4.00, 6.00),
        "bits_alone": (2.46, 2.66, 3.16, 4.16, 6.16),
        "seeds": _OURS_AND_ALONE,
    },
}
"""What a plan has other than that of the paper's comparison."""

PLANS = {
    name: replace(
        PAPER[name],  # A classifier has the sizes of the paper's comparison.
        study=_PLANS / f"{name}.yaml",
        better=(),
        benchmark="recovery",
        methods=METHODS,
        **changes,
    )
    for name, changes in _CHANGES.items()
}


def main() -> None:
    """Run what is missing, then write the result file and the documentation's table."""
    parts = parts_to_measure(__doc__, PLANS)
    benchmark, texts = Benchmark("recovery"), list[str]()
    for name, plan in PLANS.items():
        found = outcomes_of(plan, recorded=name not in parts)
        outcomes = {method: [one for one in found if one.method == method] for method in plan.seeds}
        texts += report(benchmark, plan, outcomes)
        if name in SETS:
            rows = compared(plan, "rank-8", seed=0, recorded=name not in parts)
            texts += report_sets(benchmark, plan, rows)
    fill_table(DOCS, benchmark.name, ["", *texts])
    benchmark.write()


def report(benchmark: Benchmark, plan: Plan, outcomes: Outcomes) -> list[str]:
    """Add a plan's rows and claims; return its tables as Markdown."""
    metric = plan.metric[0]
    served = served_table(plan, outcomes, _MORE.get(metric, ()))
    if served.empty:
        return []
    for row in served.to_dict("records"):
        rounded = {str(k): round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        benchmark.row(plan=plan.name, **rounded)
    lines = [f"### {plan.model}: what adapters recover", ""]
    for tested_on in (None, *([plan.other_task[0]] if plan.other_task else [])):
        text = "the test split" if tested_on is None else tested_on
        for shown in (metric, *_MORE.get(metric, ())):
            lines += [
                f"{shown} on {text}, with 95 % intervals over seeds:",
                "",
                served_markdown(plan, served, shown, 3, tested_on),
                "",
            ]
        lines += _claim_differences(benchmark, plan, outcomes, served, tested_on)
    return [*lines, minutes_markdown(minutes_table(outcomes)), ""]


_MORE = {"accuracy": ("flips",)}
"""What tables show next to a metric: predictions that differ from those of the loaded model."""


def _claim_differences(
    benchmark: Benchmark,
    plan: Plan,
    outcomes: Outcomes,
    served: pd.DataFrame,
    tested_on: str | None,
) -> list[str]:
    """Claim how ours differs from the best of the others; return all differences as Markdown."""
    value = "kl" if plan.metric[0] == "kl" else "loss"
    own = {name: outcomes.get(name, ()) for name in (OURS, *OTHERS)}
    found = differences(plan, own, OURS, value, tested_on)
    means = served.set_index(["method", "served"])[value]
    sizes = [size_name(one, tested_on) for one in plan.megabytes]
    for place, size in enumerate(sizes):
        rivals = {name: means[name, size] for name in RIVALS if (name, size) in means}
        if not rivals or (OURS, size) not in means:
            continue
        best = min(rivals, key=lambda name: rivals[name])
        what = f"{plan.model}, {size}: {value} of {OURS}"
        if place < FEW_BITS and value == "kl":
            ratio = means[OURS, size] / rivals[best]
            benchmark.claim(f"{what} over that of the best other ({best})", ratio, RATIO, "lower")
        (one,) = (one for one in found if (one.size, one.rival) == (size, best))
        benchmark.claim(
            f"{what} less that of the best other ({best}): upper end", one.high, MARGIN, "lower"
        )
    return [
        f"{value} of {OURS} less that of each other, paired, with 95 % intervals:",
        "",
        difference_markdown(found, OURS),
        "",
    ]


if __name__ == "__main__":
    main()
