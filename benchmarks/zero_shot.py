"""Configurations that CoA-LoRA was trained on against configurations that it never saw.

A first set is split in two halves of like average bits. One adapter is trained on either half, and
both evaluate both halves: each configuration is seen by one adapter and unseen by the other, so
what is compared is the same configuration with itself. A training that was killed resumes from its
last checkpoint under ``runs/paper``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.objectives import DATA, ROOT
from benchmarks.paper_runs import plan_digest, record_at, study_of
from benchmarks.paper_text import prepare_text
from qsearch.plugins.capabilities import SupportsCheckpoints
from qsearch.plugins.components import build_components
from qsearch.search.initial_set import initial_configurations
from qsearch.storage.checkpoints import read_checkpoint

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
    plan = f"{plan_digest(study, 'coa-lora', seed)}-{CONFIGURATIONS}"

    def train() -> dict[str, Any]:
        return {"plan": plan, "configurations": [asdict(one) for one in _trained(study, seed)]}

    record = record_at(path, plan, None if recorded else train)
    return None if record is None else [Seen(**one) for one in record["configurations"]]


def mean_gap(found: list[Seen]) -> float:
    """Return the mean of the metric seen less that unseen."""
    return float(np.mean([one.seen - one.unseen for one in found]))


def _trained(study: Path, seed: int) -> list[Seen]:
    prepare_text(study)
    spec = study_of(study, "coa-lora", seed)
    first, second = build_components(spec), build_components(spec)
    space = first.space
    initial = initial_configurations(
        space,
        first.trainer.quantization_error(space.choices.layer_configurations),
        CONFIGURATIONS,
        spec.search.bits,
        np.random.default_rng(seed),
    )
    ordered = sorted((index for _, index in initial), key=space.average_bits)
    configurations = [space.decode(index) for index in ordered]
    directory = ROOT / "runs" / "paper" / study.stem / f"zero-shot-{seed}"
    (directory / "state").mkdir(parents=True, exist_ok=True)
    evaluations = []
    for turn, components in enumerate((first, second)):
        assert isinstance(components.trainer, SupportsCheckpoints)
        checkpoint = read_checkpoint(directory, turn + 1)
        components.trainer.train_resumably(configurations[turn::2], 1, None, checkpoint)
        evaluations.append(components.trainer.evaluate(configurations, "test"))
    found = []
    main = first.task.metrics[0].name
    for position, index in enumerate(ordered):
        seen, unseen = (evaluations[(position + other) % 2][position] for other in range(2))
        found.append(
            Seen(
                float(space.average_bits(index)),
                seen.metrics[main].value,
                unseen.metrics[main].value,
                seen.loss,
                unseen.loss,
            )
        )
    return found
