"""One method's study in the paper's comparison: run once, and what it serves recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.objectives import DATA, ROOT
from benchmarks.paper_text import RULES, environment, prepare_text
from benchmarks.recording import COMMIT, machine
from qsearch.deployment.selection import best_under
from qsearch.errors import InputError
from qsearch.plugins.components import build_components
from qsearch.plugins.registry import load_plugin
from qsearch.spec.study_spec import StudySpec, load_spec
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.clock import Clock
from qsearch.storage.files import write_json
from qsearch.storage.study_record import read_study, row_configuration
from qsearch.study.run import run_spec

BUDGETS = (2.5, 3.0, 4.0, 5.0, 6.0)
"""Average bits that each method has to serve."""


@dataclass(frozen=True)
class Entry:
    """A method, or an ablation of one, as what a study's YAML is changed by.

    Args:
        trainer: Name of the trainer.
        changes: Assignments such as ``search.local_search=false``.
        by_plan: More of them, by the name of the plan.
        reference: The method that its gaps are measured from, of the same quantizer.
    """

    trainer: str
    changes: tuple[str, ...] = ()
    by_plan: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reference: str = "qlora"


def for_all(trainer: str, *changes: str) -> Entry:
    """Return a method with one adapter for all configurations: one of them a step.

    On SST-2 that is as good as two that share a batch, in four fifths of the time.

    Args:
        trainer: Name of the trainer.
        changes: Assignments such as ``search.local_search=false``.
    """
    return Entry(trainer, ("trainer.configurations_per_step=1", *changes))


_SERVED_ALONE = ("search.rounds=1", "search.candidates=0")

METHODS: Mapping[str, Entry] = {
    "qlora": Entry("qlora", (*_SERVED_ALONE, f"search.initial={{uniform: {list(BUDGETS)}}}")),
    "lq-lora": Entry(
        "lq-lora",
        (*_SERVED_ALONE, f"search.initial={{allocated: {list(BUDGETS)}}}"),
        {"sst2-minilm": ("trainer.learning_rate=3.0e-4",)},
    ),
    "ptq": Entry("ptq", (*_SERVED_ALONE, f"search.initial={{allocated: {list(BUDGETS)}}}")),
    "shared-lora": for_all("shared-lora"),
    "coa-lora": for_all("coa-lora"),
}
"""QLoRA has the best uniform configuration of each budget, LQ-LoRA and PTQ the allocator's; one
LoRA for all is searched like CoA-LoRA. LQ-LoRA trains principal components of the weights, and has
the rate that suited it best: on SST-2 a lower one than the others."""


def _with_integers(entry: Entry) -> Entry:
    changes = (*entry.changes, "quantizer.name=integer")
    return replace(entry, changes=changes, reference="integer-ptq")


ABLATIONS: Mapping[str, Entry] = {
    "frozen-set": for_all("coa-lora", "search.candidates=0", "search.keep=all"),
    "random-extension": for_all(
        "coa-lora", "search.propose=random", "search.candidates=10", "search.keep=all"
    ),
    "no-segments": for_all("coa-lora", "search.keep=front"),
    "no-local-search": for_all("coa-lora", "search.local_search=false"),
    "longer": for_all("coa-lora", "trainer.first_steps=270"),
    "rank-8": for_all("coa-lora", "trainer.rank=8"),
    "rank-32": for_all("coa-lora", "trainer.rank=32"),
    "rank-64": for_all("coa-lora", "trainer.rank=64"),
    "rank-128": for_all("coa-lora", "trainer.rank=128"),
    "integer": _with_integers(METHODS["coa-lora"]),
    "integer-shared-lora": _with_integers(METHODS["shared-lora"]),
    "integer-ptq": _with_integers(METHODS["ptq"]),
}
"""CoA-LoRA's study with one thing changed; and its rivals with integers, for comparison.

``longer`` takes 300 steps in all on SmolLM2, what one LoRA for each of the five budgets takes."""

ENTRIES: Mapping[str, Entry] = {**METHODS, **ABLATIONS}


@dataclass(frozen=True)
class Served:
    """What a method serves within a budget.

    Args:
        budget: Average bits asked for.
        average_bits: Average bits of the configuration.
        loss: Loss on the test split, nats.
        metric: The task's main metric there.
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
        method: Name in ``ENTRIES``.
        seed: The study's seed.
        plan: Digest of the study and the budgets, so that no other plan's record is taken for it.
        served: One configuration a budget.
        minutes: Wall time of the study until all budgets could be served: loading, scores,
            training, evaluations, fits and searches, over all sessions.
        train_minutes: Those of training in the rounds.
        evaluations: How many configurations were evaluated, each round's counted.
        steps: Optimizer steps.
        machine: Where it ran, of what commit, and how busy that machine was at the end.
    """

    method: str
    seed: int
    plan: str
    served: tuple[Served, ...]
    minutes: float
    train_minutes: float
    evaluations: int
    steps: int
    machine: Mapping[str, Any]

    @property
    def configurations(self) -> int:
        """How many different configurations serve the budgets."""
        return len({one.average_bits for one in self.served})


def study_of(
    study: Path,
    method: str,
    seed: int,
    entries: Mapping[str, Entry] = ENTRIES,
    variables: Mapping[str, str] | None = None,
) -> StudySpec:
    """Return a method's study.

    Args:
        study: YAML of the study; its trainer's options are those that all methods have.
        method: Name of the method.
        seed: Seed.
        entries: Methods by name.
        variables: Where data is; that of this machine if None.
    """
    entry = entries[method]
    own = (f"trainer.name={entry.trainer}", f"seed={seed}", f"name={study.stem}-{method}-{seed}")
    changes = (*own, *entry.changes, *entry.by_plan.get(study.stem, ()))
    return load_spec(study, changes, variables or environment())


def outcome_of(study: Path, method: str, seed: int, recorded: bool = False) -> Outcome | None:
    """Return what a method came to, from its record or else by running its study.

    Args:
        study: YAML of the study; its records are in a folder of its name.
        method: Name in ``ENTRIES``.
        seed: Seed.
        recorded: Whether to return None rather than run anything.

    Raises:
        InputError: If the record is of another plan.
    """
    path = DATA / "paper" / study.stem / f"{method}-{seed}.json"
    plan = plan_digest(study, method, seed)

    def run() -> dict[str, Any]:
        directory = ROOT / "runs" / "paper" / study.stem / f"{method}-{seed}"
        prepare_text(study)
        return asdict(_run(study_of(study, method, seed), directory, method, seed, plan))

    found = record_at(path, plan, None if recorded else run)
    if found is None:
        return None
    served = tuple(Served(**one) for one in found.pop("served"))
    return Outcome(served=served, **found)


_SOMEWHERE = {"QSEARCH_DATA": "/data", "PAPER_TEXT": "/text"}


def plan_digest(study: Path, method: str, seed: int, entries: Mapping[str, Entry] = ENTRIES) -> str:
    """Return a text that differs where the method's study, a default or the budgets differ.

    Where a machine keeps its data makes no difference.
    """
    spec = study_of(study, method, seed, entries, _SOMEWHERE)
    values = spec.model_dump(mode="json")
    for kind, section in (
        ("trainers", spec.trainer),
        ("quantizers", spec.quantizer),
        ("tasks", spec.task),
    ):
        options: BaseModel = load_plugin(kind, section.name).Options(**section.options)
        # An option that is not given says nothing, so a new one leaves records as they are.
        values[kind] = [section.name, options.model_dump(mode="json", exclude_none=True)]
    text = json.dumps([values, BUDGETS, RULES], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_at(
    path: Path, plan: str, make: Callable[[], dict[str, Any]] | None
) -> dict[str, Any] | None:
    """Return a record, made and written if it is not there.

    Args:
        path: Its JSON file.
        plan: Digest of the plan, which a record has as ``plan``.
        make: Makes the record; None makes none.

    Raises:
        InputError: If the record is of another plan.
    """
    if not path.is_file():
        if make is None:
            return None
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, made)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found["plan"] != plan:
        raise InputError(
            f"{path}: recorded under another plan ({found['plan']}, now {plan}); delete it, and its"
            " folder under runs/paper, to run it again"
        )
    return found


def _run(spec: StudySpec, directory: Path, method: str, seed: int, plan: str) -> Outcome:
    run_spec(spec, directory)
    minutes = 60 * Clock(directory).hours
    record = read_study(directory)
    components = build_components(spec)
    last = len(record.rounds)
    components.trainer.load_state(read_adapter(directory, last)[0])
    rows = [best_under(record, budget) for budget in BUDGETS]
    main = components.task.metrics[0].name
    tested = components.trainer.evaluate([row_configuration(row) for row in rows], "test")
    return Outcome(
        method,
        seed,
        plan,
        tuple(
            Served(
                budget,
                float(row["average_bits"]),
                one.loss,
                one.metrics[main].value,
                one.metrics[main].standard_error,
            )
            for budget, row, one in zip(BUDGETS, rows, tested, strict=True)
        ),
        minutes,
        train_minutes=sum(entry.train_seconds for entry in record.rounds) / 60,
        evaluations=len(record.trials),
        steps=sum(len(entry.train_losses) for entry in record.rounds),
        machine={**machine(), "commit": COMMIT},
    )
