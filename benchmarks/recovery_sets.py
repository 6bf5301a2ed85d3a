"""What it is worth that one adapter is trained on a set of configurations.

Composed LoRA is trained in three ways, and tested under the same configurations: those that the
allocator finds at a plan's sizes.

- ``all``: on such a first set as the plan's study has, with them in it;
- ``unseen``: on that set without them;
- ``alone``: on each of them alone, with as many steps as each has if ``all`` is divided by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.adapter import sets_of
from benchmarks.method_studies import plan_digest, record_at, study_of
from benchmarks.objectives import DATA
from benchmarks.paper_methods import Plan
from benchmarks.paper_runs import examples_of
from benchmarks.paper_text import prepare_text
from benchmarks.recording import Benchmark
from qsearch.claims.paired_difference import PairedDifference, paired_difference
from qsearch.plugins.components import build_components
from qsearch.plugins.evaluation import Evaluation
from qsearch.spec.study_spec import StudySpec

ALL, UNSEEN, ALONE = "all", "unseen", "alone"

MARGIN = 0.02
"""Nats of KL that the upper end of an interval may lie above zero."""

Scores = Mapping[str, Sequence[float]]
"""Of the configurations at one size: ``kl`` of each sequence, and its ``weights`` (tokens)."""


@dataclass(frozen=True)
class Compared:
    """KL of ``all`` next to that of another training, under the configuration of one size.

    Args:
        bits: Average bits asked for.
        other: The other training.
        kl: Mean of ``all``.
        other_kl: Mean of the other.
        difference: Of ``unseen`` less ``all``, or of ``all`` less ``alone``.
    """

    bits: float
    other: str
    kl: float
    other_kl: float
    difference: PairedDifference


def compared(plan: Plan, method: str, seed: int, recorded: bool) -> list[Compared]:
    """Return what is recorded of a method's three trainings, or train what is missing.

    Args:
        plan: The comparison whose study, steps and sizes they have.
        method: Name of the method.
        seed: Seed.
        recorded: Whether to train nothing.
    """
    found = {}
    for training in (ALL, UNSEEN, ALONE):
        record = _outcome(plan, method, training, seed, recorded)
        if record is None:
            return []
        found[training] = record["sizes"]
    rows = []
    for bits, own, unseen, alone in zip(plan.bits, *found.values(), strict=True):
        for other, first, second in ((UNSEEN, unseen, own), (ALONE, own, alone)):
            difference = paired_difference(first["kl"], second["kl"], own["weights"])
            rows.append(
                Compared(
                    bits,
                    other,
                    _mean(own),
                    _mean(unseen if other == UNSEEN else alone),
                    difference,
                )
            )
    return rows


def report_sets(benchmark: Benchmark, plan: Plan, rows: Sequence[Compared]) -> list[str]:
    """Add rows and claims; return a table as Markdown."""
    if not rows:
        return []
    lines = [
        "One adapter for all configurations next to one for each, and under configurations that"
        " its training did not meet; KL, differences with 95 % intervals over sequences:",
        "",
        "| average bits | all | unseen | unseen less all | alone | all less alone |",
        "|---|---|---|---|---|---|",
    ]
    for bits in plan.bits:
        unseen, alone = (one for one in rows if one.bits == bits)
        lines.append(
            f"| {bits:g} | {unseen.kl:.3f} | {unseen.other_kl:.3f} | {_interval(unseen)} |"
            f" {alone.other_kl:.3f} | {_interval(alone)} |"
        )
    for one in rows:
        difference = one.difference
        benchmark.row(
            plan=plan.name,
            bits=one.bits,
            training=one.other,
            kl=round(one.other_kl, 4),
            kl_of_all=round(one.kl, 4),
            difference=round(difference.difference, 4),
            low=round(difference.low, 4),
            high=round(difference.high, 4),
        )
        what = (
            "KL under configurations that training did not meet, less that under the same when"
            " it met them"
            if one.other == UNSEEN
            else "KL of one adapter for all less that of one for this configuration alone"
        )
        benchmark.claim(
            f"{plan.model}, {one.bits:g} bits: {what}: upper end",
            *(difference.high, MARGIN, "lower"),
        )
    return [*lines, ""]


def _interval(one: Compared) -> str:
    difference = one.difference
    return f"{difference.difference:+.4f} ± {difference.half_width:.4f}"


def _mean(scores: Scores) -> float:
    return float(np.average(scores["kl"], weights=scores["weights"]))


def _outcome(
    plan: Plan, method: str, training: str, seed: int, recorded: bool
) -> dict[str, Any] | None:
    path = DATA / plan.benchmark / plan.name / "sets" / f"{method}-{training}-{seed}.json"
    digest = "-".join([plan_digest(plan.study, method, seed, plan.entries), *map(str, plan.bits)])

    def train() -> dict[str, Any]:
        prepare_text(plan.study)
        spec = study_of(plan.study, method, seed, plan.entries)
        return {"plan": digest, "sizes": _trained(plan, training, spec)}

    return record_at(path, digest, None if recorded else train)


def _trained(plan: Plan, training: str, spec: StudySpec) -> list[dict[str, Any]]:
    """Train in one way, and return what the configurations of a plan's sizes score on test text."""
    if training == ALONE:
        steps = int(spec.trainer.options["first_steps"]) // len(plan.bits)
        section = spec.trainer.model_copy(update={"first_steps": steps})
        spec = spec.model_copy(update={"trainer": section})
    components = build_components(spec)
    space = components.space
    rows = sets_of(components, spec.seed, spec.search.initial, plan.bits)
    first_set, sized = ([space.decode(index) for index in one] for one in rows)
    trainer, start = components.trainer, components.trainer.state()
    found: list[Evaluation] = []
    if training == ALONE:
        for configuration in sized:
            trainer.load_state(start)
            trainer.train([configuration], 1)
            found += trainer.evaluate([configuration], "test")
    else:
        left_out = set(sized) if training == UNSEEN else set()
        trainer.train([one for one in first_set if one not in left_out], 1)
        found += trainer.evaluate(sized, "test")
    return [_scores(one) for one in found]


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    examples = examples_of(evaluation)
    return {"kl": list(examples.metrics["kl"]), "weights": list(examples.weights)}
