"""One method's study in the paper's comparison: run once, and what it serves recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.objectives import DATA
from qsearch.assembly import assemble
from qsearch.records import StudyRecord, best_under, read_study, row_configuration, write_json
from qsearch.spec import StudySpec, load_spec
from qsearch.study import run_study
from qsearch.training_state import read_adapter

ROOT = Path(__file__).parent.parent
BUDGETS = (2.5, 3.0, 4.0, 5.0, 6.0)
"""Average bits that each method has to serve."""

_SERVED_ALONE = ("rounds=1", "candidates=0")

METHODS: Mapping[str, tuple[str, ...]] = {
    "qlora": (*_SERVED_ALONE, f"initial={{uniform: {list(BUDGETS)}}}"),
    "lq-lora": (*_SERVED_ALONE, f"initial={{allocated: {list(BUDGETS)}}}"),
    "ptq": (*_SERVED_ALONE, f"initial={{allocated: {list(BUDGETS)}}}"),
    "shared-lora": (),
    "coa-lora": (),
}
"""By trainer: what of the study's search differs. QLoRA has the best uniform configuration of each
budget, LQ-LoRA and PTQ the allocator's; one LoRA for all is searched like CoA-LoRA."""


@dataclass(frozen=True)
class Served:
    """What a method serves within a budget.

    Args:
        budget: Average bits asked for.
        average_bits: Average bits of the configuration.
        loss: Loss on the test split, nats.
        metric: The task's metric there.
        metric_standard_error: Its standard error.
    """

    budget: float
    average_bits: float
    loss: float
    metric: float
    metric_standard_error: float


@dataclass(frozen=True)
class Outcome:
    """A method's study with one seed.

    Args:
        method: The trainer.
        seed: The study's seed.
        served: One configuration a budget.
        train_minutes: Wall time of training.
        evaluate_minutes: Of evaluations, training inside them included.
        search_minutes: Of fits and searches.
        evaluations: How many configurations were evaluated, each round's counted.
        steps: Optimizer steps.
    """

    method: str
    seed: int
    served: tuple[Served, ...]
    train_minutes: float
    evaluate_minutes: float
    search_minutes: float
    evaluations: int
    steps: int

    @property
    def minutes(self) -> float:
        """Wall time until all budgets could be served."""
        return self.train_minutes + self.evaluate_minutes + self.search_minutes


def study_of(study: Path, method: str, seed: int, overrides: tuple[str, ...] = ()) -> StudySpec:
    """Return a method's study.

    Args:
        study: YAML of the study; its trainer's options are those that all methods have.
        method: The trainer.
        seed: Seed.
        overrides: Further assignments, such as an ablation's.
    """
    of_method = tuple(f"search.{text}" for text in METHODS.get(method, ()))
    own = (f"trainer.name={method}", f"seed={seed}", f"name={study.stem}-{method}-{seed}")
    return load_spec(study, (*own, *of_method, *overrides))


def outcome_of(plan: str, study: Path, method: str, seed: int) -> Outcome:
    """Return what a method came to, from its record or else by running its study.

    Args:
        plan: Name of the comparison; its records are in a folder of that name.
        study: YAML of the study.
        method: The trainer.
        seed: Seed.
    """
    path = DATA / "paper" / plan / f"{method}-{seed}.json"
    if not path.is_file():
        directory = ROOT / "runs" / "paper" / plan / f"{method}-{seed}"
        outcome = _run(study_of(study, method, seed), directory, method, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(outcome))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    served = tuple(Served(**one) for one in found.pop("served"))
    return Outcome(served=served, **found)


def _run(spec: StudySpec, directory: Path, method: str, seed: int) -> Outcome:
    record = run_study(spec, directory)
    record = read_study(directory)
    parts = assemble(spec)
    last = len(record.rounds) - 1
    parts.trainer.load_state(read_adapter(directory, last)[0])
    rows = [best_under(record, budget) for budget in BUDGETS]
    tested = parts.trainer.evaluate([row_configuration(row) for row in rows], "test")
    return Outcome(
        method,
        seed,
        tuple(
            Served(
                budget, float(row["average_bits"]), one.loss, one.metric, one.metric_standard_error
            )
            for budget, row, one in zip(BUDGETS, rows, tested, strict=True)
        ),
        *(_minutes(record, part) for part in ("train", "evaluate", "search")),
        evaluations=len(record.trials),
        steps=sum(len(entry.train_losses) for entry in record.rounds),
    )


def _minutes(record: StudyRecord, part: str) -> float:
    return float(sum(getattr(entry, f"{part}_seconds") for entry in record.rounds)) / 60
