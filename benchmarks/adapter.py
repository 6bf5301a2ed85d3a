"""What the parts of CoA-LoRA's adapter are worth, on a fixed set without a search.

Each variant is trained once on such a first set as the paper's comparison has, and evaluated under
the allocator's configurations at :data:`LEVELS` average bits. One LoRA for each of these, trained
on nothing else, shows what an adapter that knows the configuration could gain. What is finished is
recorded under ``data/adapter``.

    python -m benchmarks.adapter [--recorded]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from qsearch_coalora.methods.coa_lora import CoALoRAOptions

from benchmarks.confidence import half_width, interval
from benchmarks.method_studies import (
    OURS,
    STUDIES,
    Entry,
    for_all,
    plan_digest,
    record_at,
    study_of,
)
from benchmarks.objectives import DATA
from benchmarks.paper_text import environment, prepare_text
from benchmarks.recording import Benchmark, only_recorded
from qsearch._arrays import Integers
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.search.allocation import allocate_front
from qsearch.search.initial_set import first_set
from qsearch.search.layer_scores import error_scores
from qsearch.spec.search_spec import InitialSpec
from qsearch.spec.study_spec import load_spec

SEEDS = 3
"""Seeds of the variants that answer what residual factors and θ are each worth."""

CONFIGURATIONS = 16
LEVELS = (2.3, 3.0, 6.0)
LOW = 2
"""How many of the levels count as low bits."""

LONGER = 2
"""Times the plan's steps that the longer trainings take."""

TRIED_ON = "wikitext2-smollm2"
"""The plan that distinguishes variants with one seed: quantization costs SmolLM2 whole nats."""

_THETA = frozenset({"coa-lora", "without-theta"})

OVER_SEEDS = {"sst2-minilm": _THETA, TRIED_ON: _THETA | {"shared-lora", "init-shared"}}
"""Variants of all seeds by plan; the others are trials of one, on :data:`TRIED_ON` alone."""


def variants(options: CoALoRAOptions) -> Mapping[str, Entry]:
    """Return CoA-LoRA as by default, with one thing changed, and LoRA for all and for each level.

    Args:
        options: The plan's options of CoA-LoRA.
    """
    longer = f"trainer.first_steps={LONGER * options.round_steps(1)}"
    rank, rate = options.rank, options.learning_rate
    return {
        "shared-lora": for_all("shared-lora"),
        # CoA-LoRA's trained factors, half of the rank, are scaled by α over that half.
        "shared-lora-alpha": for_all("shared-lora", f"trainer.alpha={2 * rank}"),
        "coa-lora": for_all("coa-lora"),
        "without-theta": for_all("coa-lora", "trainer.theta_learning_rate=0"),
        "init-shared": for_all("coa-lora", "trainer.init=shared"),
        "frobenius": for_all("coa-lora", "trainer.residual_norm=frobenius"),
        "residual-alone": for_all("coa-lora", f"trainer.residual_rank={rank}"),
        "theta-from-start": for_all("coa-lora", "trainer.theta_start=0"),
        "theta-at-rate-1": for_all("coa-lora", f"trainer.theta_learning_rate={rate}"),
        "theta-at-rate-10": for_all("coa-lora", f"trainer.theta_learning_rate={10 * rate}"),
        "theta-additive": for_all("coa-lora", "trainer.theta={adjustment: additive}"),
        "lora-for-each": Entry("qlora"),
        "shared-lora-longer": for_all("shared-lora", longer),
        "coa-lora-longer": for_all("coa-lora", longer),
        "without-theta-longer": for_all("coa-lora", "trainer.theta_learning_rate=0", longer),
    }


def seeds_of(variant: str, plan: str) -> range:
    """Return the seeds that a variant is trained with under a plan."""
    return range(SEEDS if variant in OVER_SEEDS[plan] else int(plan == TRIED_ON))


def main() -> None:
    """Train what is missing, then write the result file."""
    recorded = only_recorded(__doc__)
    benchmark = Benchmark("adapter")
    for name, study in STUDIES.items():
        losses: dict[str, dict[int, float]] = {}
        for variant in variants_of(study):
            for seed in seeds_of(variant, name):
                found = outcome_of(study, variant, seed, recorded)
                if found is not None:
                    losses.setdefault(variant, {})[seed] = _loss_at_low_bits(found)
                    benchmark.row(study=name, variant=variant, seed=seed, **_rounded(found))
        _claim(benchmark, name, losses)
    benchmark.write()


def _claim(benchmark: Benchmark, study: str, losses: Mapping[str, Mapping[int, float]]) -> None:
    """Claim a loss below that of each other variant, over the seeds that both have."""
    for variant, by_seed in losses.items():
        print(f"{study}, {variant}: loss at low bits {interval(np.array([*by_seed.values()]))}")
    own = losses.get(OURS, {})
    for rival, other in losses.items():
        seeds = sorted(set(own) & set(other))
        if rival == OURS or not seeds:
            continue
        gaps = np.array([own[seed] - other[seed] for seed in seeds])
        what = (
            f"{study}: loss of {OURS} less that of {rival} at {LEVELS[LOW - 1]:g} bits and less,"
            f" nats, {len(seeds)} seeds"
        )
        benchmark.claim(f"{what}, mean", float(gaps.mean()), None, "lower")
        if len(seeds) == SEEDS:
            upper = float(gaps.mean() + half_width(gaps))
            benchmark.claim(f"{what}, upper end of the interval", upper, 0.0, "lower")


def outcome_of(
    study: Path, variant: str, seed: int, recorded: bool = False
) -> dict[str, Any] | None:
    """Return what a variant came to, from its record or else by training it.

    Args:
        study: YAML of the study; its records are in a folder of its name.
        variant: Name among :func:`variants`.
        seed: Seed.
        recorded: Whether to return None rather than train anything.

    Raises:
        InputError: If the record is of another plan.
    """
    own = (plan_digest(study, variant, seed, variants_of(study)), CONFIGURATIONS, *LEVELS)
    plan = "-".join(map(str, own))
    path = DATA / "adapter" / study.stem / f"{variant}-{seed}.json"
    return record_at(path, plan, None if recorded else lambda: _train(study, variant, seed, plan))


def variants_of(study: Path) -> Mapping[str, Entry]:
    """Return the variants of a plan."""
    options = load_spec(study, (), environment()).trainer.options
    return variants(CoALoRAOptions.model_validate(options))


def _train(study: Path, variant: str, seed: int, plan: str) -> dict[str, Any]:
    prepare_text(study)
    entries = variants_of(study)
    spec = study_of(study, variant, seed, entries)
    components = build_components(spec)
    space, trainer = components.space, components.trainer
    to_train, levels = sets_of(components, seed, CONFIGURATIONS, LEVELS)
    configurations = [space.decode(index) for index in levels]
    alone = entries[variant].trainer == "qlora"
    report = trainer.train(
        configurations if alone else [space.decode(index) for index in to_train], 1
    )
    outcome: dict[str, Any] = {
        "plan": plan,
        "train_seconds": report.seconds,
        "train_loss": float(np.mean(report.losses[-50:])),
        "average_bits": space.average_bits(levels).tolist(),
    }
    for split in ("validation", "test"):
        found = trainer.evaluate(configurations, split)
        outcome[f"{split}_loss"] = [one.loss for one in found]
        main = components.task.metrics[0].name
        outcome[f"{split}_metric"] = [one.metrics[main].value for one in found]
    return outcome


def sets_of(
    components: StudyComponents, seed: int, initial: int | InitialSpec, levels: Sequence[float]
) -> tuple[Integers, Integers]:
    """Return a study's first set to train on, and the allocator's configurations of some levels.

    Args:
        components: The study.
        seed: Draws the random ones of the set.
        initial: What the set has, as a study says it.
        levels: Most average bits of each of the others.

    Returns:
        Choice indices of both (n × groups).
    """
    space = components.space
    errors = components.trainer.quantization_error(space.choices.layer_configurations)
    bits, generator = components.spec.search.bits, np.random.default_rng(seed)
    assert bits is not None
    scores = error_scores(space, errors)
    first = first_set(space, errors, scores, initial, bits, generator)
    return np.stack([index for _, index in first]), allocate_front(space, scores, levels)


def _loss_at_low_bits(found: dict[str, Any]) -> float:
    """Return the mean over both splits: neither shares a sentence with training."""
    return float(np.mean([found[f"{split}_loss"][:LOW] for split in ("validation", "test")]))


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    return {name: np.round(value, 4).tolist() for name, value in found.items() if name != "plan"}


if __name__ == "__main__":
    main()
