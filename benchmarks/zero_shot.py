"""Configurations that CoA-LoRA was trained on against configurations that it never saw.

A first set is split in two halves of like average bits. One adapter is trained on either half, and
both evaluate both halves: each configuration is seen by one adapter and unseen by the other, so
what is compared is the same configuration with itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.objectives import DATA
from benchmarks.paper_runs import plan_digest, require_plan, study_of
from qsearch.assembly import assemble
from qsearch.initial import initial_configurations
from qsearch.records import write_json

CONFIGURATIONS = 48


@dataclass(frozen=True)
class Seen:
    """One configuration under both adapters.

    Args:
        average_bits: Its average bits.
        seen: Metric on the test split under the adapter that was trained on it.
        unseen: The same under the other.
        seen_loss: Loss, nats.
        unseen_loss: The same.
    """

    average_bits: float
    seen: float
    unseen: float
    seen_loss: float
    unseen_loss: float


def zero_shot(study: Path, seed: int, recorded: bool = False) -> list[Seen] | None:
    """Return all configurations of both halves, from the record or else by training.

    Args:
        study: YAML of CoA-LoRA's study.
        seed: Seed.
        recorded: Whether to return None rather than train anything.

    Raises:
        InputError: If the record is of another plan.
    """
    path = DATA / "paper" / study.stem / f"zero-shot-{seed}.json"
    if not path.is_file():
        if recorded:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        found = [asdict(one) for one in _trained(study, seed)]
        write_json(path, {"plan": plan_digest(study, "coa-lora", seed), "configurations": found})
    record = json.loads(path.read_text(encoding="utf-8"))
    require_plan(path, record["plan"], plan_digest(study, "coa-lora", seed))
    return [Seen(**one) for one in record["configurations"]]


def mean_gap(found: list[Seen]) -> float:
    """Return the mean of the metric seen less that unseen."""
    return float(np.mean([one.seen - one.unseen for one in found]))


def _trained(study: Path, seed: int) -> list[Seen]:
    spec = study_of(study, "coa-lora", seed)
    evaluations = []
    for turn in range(2):
        parts = assemble(spec)
        first = initial_configurations(
            parts.space,
            parts.trainer.quantization_error(parts.space.choices.layer_configurations),
            CONFIGURATIONS,
            spec.search.average_bits,
            np.random.default_rng(seed),
        )
        ordered = sorted((index for _, index in first), key=parts.space.average_bits)
        configurations = [parts.space.decode(index) for index in ordered]
        parts.trainer.train(configurations[turn::2], 0)
        evaluations.append(parts.trainer.evaluate(configurations, "test"))
    found = []
    for position, index in enumerate(ordered):
        seen, unseen = (evaluations[(position + other) % 2][position] for other in range(2))
        found.append(
            Seen(
                float(parts.space.average_bits(index)),
                seen.metric,
                unseen.metric,
                seen.loss,
                unseen.loss,
            )
        )
    return found
