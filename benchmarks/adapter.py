"""What the parts of CoA-LoRA's adapter are worth, on a fixed set without a search.

Each variant is trained once on the same first set as the paper's comparison on SST-2 has, and
evaluated under the allocator's configurations at :data:`LEVELS` average bits. What is finished is
recorded under ``data/adapter``.

    python -m benchmarks.adapter [--recorded]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.confidence import half_width, interval
from benchmarks.objectives import DATA
from benchmarks.paper import PLANS
from benchmarks.paper_runs import Entry, plan_digest, record_at, study_of
from benchmarks.recording import Benchmark, only_recorded
from qsearch.assembly import assemble
from qsearch.initial import initial_configurations
from qsearch.proxy import allocate_front, error_scores

STUDY = PLANS["sst2-minilm"].study
SEEDS = 3
CONFIGURATIONS = 24
LEVELS = (2.3, 2.5, 3.0, 4.0, 6.0)
LOW = 3
"""How many of the levels count as low bits."""

_MORE_EXAMPLES = "task.validation_examples=2048"

VARIANTS: Mapping[str, Entry] = {
    "shared-lora": Entry("shared-lora", (_MORE_EXAMPLES,)),
    "coa-lora": Entry("coa-lora", (_MORE_EXAMPLES,)),
    "frobenius": Entry("coa-lora", (_MORE_EXAMPLES, "trainer.residual_norm=frobenius")),
    "init-shared": Entry("coa-lora", (_MORE_EXAMPLES, "trainer.init=shared")),
    "theta-from-start": Entry("coa-lora", (_MORE_EXAMPLES, "trainer.theta_start=0")),
}
"""CoA-LoRA with its defaults, with one of them changed, and one LoRA for all."""


def main() -> None:
    """Train what is missing, then write the result file."""
    recorded = only_recorded(__doc__)
    benchmark = Benchmark("adapter")
    losses: dict[str, dict[int, float]] = {}
    for seed in range(SEEDS):
        for variant in VARIANTS:
            found = outcome_of(variant, seed, recorded)
            if found is not None:
                losses.setdefault(variant, {})[seed] = float(np.mean(found["test_loss"][:LOW]))
                benchmark.row(variant=variant, seed=seed, **_rounded(found))
    for variant, by_seed in losses.items():
        print(f"{variant}: test loss at low bits {interval(np.array([*by_seed.values()]))}")
    for rival in VARIANTS:
        own, other = losses.get("coa-lora", {}), losses.get(rival, {})
        seeds = sorted(set(own) & set(other))
        if rival == "coa-lora" or not seeds:
            continue
        gaps = np.array([own[seed] - other[seed] for seed in seeds])
        benchmark.claim(
            f"test loss of coa-lora less that of {rival} at {LEVELS[LOW - 1]:g} bits and less,"
            f" nats, {len(seeds)} seeds (± {half_width(gaps):.4f})",
            float(gaps.mean()),
            0.0,
            "lower",
        )
    benchmark.write()


def outcome_of(variant: str, seed: int, recorded: bool = False) -> dict[str, Any] | None:
    """Return what a variant came to, from its record or else by training it.

    Args:
        variant: Name in :data:`VARIANTS`.
        seed: Seed.
        recorded: Whether to return None rather than train anything.

    Raises:
        InputError: If the record is of another plan.
    """
    plan = plan_digest(STUDY, variant, seed, VARIANTS)
    path = DATA / "adapter" / f"{variant}-{seed}.json"
    return record_at(path, plan, None if recorded else lambda: _train(variant, seed, plan))


def _train(variant: str, seed: int, plan: str) -> dict[str, Any]:
    spec = study_of(STUDY, variant, seed, VARIANTS)
    parts = assemble(spec)
    space, trainer = parts.space, parts.trainer
    errors = trainer.quantization_error(space.choices.layer_configurations)
    bits, generator = spec.search.average_bits, np.random.default_rng(seed)
    initial = initial_configurations(space, errors, CONFIGURATIONS, bits, generator)
    report = trainer.train([space.decode(index) for _, index in initial], 0)
    levels = allocate_front(space, error_scores(space, errors), LEVELS)
    configurations = [space.decode(index) for index in levels]
    outcome: dict[str, Any] = {
        "plan": plan,
        "train_seconds": report.seconds,
        "train_loss": float(np.mean(report.losses[-50:])),
        "switch_share": report.details["switch_share"],
        "average_bits": [float(space.average_bits(index)) for index in levels],
    }
    for split in ("validation", "test"):
        found = trainer.evaluate(configurations, split)
        outcome[f"{split}_loss"] = [one.loss for one in found]
        outcome[f"{split}_metric"] = [one.metric for one in found]
    return outcome


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    return {name: np.round(value, 4).tolist() for name, value in found.items() if name != "plan"}


if __name__ == "__main__":
    main()
