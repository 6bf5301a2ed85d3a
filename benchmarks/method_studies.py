"""A method's study with one seed, and its record, which no other plan's is taken for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.paper_text import RULES, environment
from qsearch.errors import InputError
from qsearch.plugins.registry import Group, load_plugin
from qsearch.spec.sections import PluginSpec
from qsearch.spec.study_spec import StudySpec, load_spec
from qsearch.storage.files import write_json

OURS = "coa-lora"

_PLANS = Path(__file__).parent / "plans"

STUDIES: Mapping[str, Path] = {
    name: _PLANS / f"{name}.yaml" for name in ("sst2-minilm", "wikitext2-smollm2")
}
"""Short studies by name, which parts of CoA-LoRA are measured on."""


@dataclass(frozen=True)
class Entry:
    """A method, or a variant of one, as what a study's YAML is changed by.

    Args:
        trainer: Name of the trainer.
        changes: Assignments such as ``search.local_search=false``.
    """

    trainer: str
    changes: tuple[str, ...] = ()


def for_all(trainer: str, *changes: str) -> Entry:
    """Return a method with one adapter for all configurations: one of them a step.

    On SST-2 that is as good as two that share a batch, in four fifths of the time.

    Args:
        trainer: Name of the trainer.
        changes: Assignments such as ``search.local_search=false``.
    """
    return Entry(trainer, ("trainer.configurations_per_step=1", *changes))


def study_of(
    study: Path,
    method: str,
    seed: int,
    entries: Mapping[str, Entry],
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
    return load_spec(study, (*own, *entry.changes), variables or environment())


_SOMEWHERE = {"QSEARCH_DATA": "/data", "PAPER_TEXT": "/text"}


def plan_digest(study: Path, method: str, seed: int, entries: Mapping[str, Entry]) -> str:
    """Return a text that differs where the method's study or a default differs.

    Where a machine keeps its data makes no difference.
    """
    spec = study_of(study, method, seed, entries, _SOMEWHERE)
    values = spec.model_dump(mode="json")
    sections: dict[Group, PluginSpec] = {
        "trainers": spec.trainer,
        "quantizers": spec.quantizer,
        "tasks": spec.task,
    }
    for kind, section in sections.items():
        options: BaseModel = load_plugin(kind, section.name).Options(**section.options)
        # An option that is not given says nothing, so a new one leaves records as they are.
        values[kind] = [section.name, options.model_dump(mode="json", exclude_none=True)]
    text = json.dumps([values, RULES], sort_keys=True)
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
