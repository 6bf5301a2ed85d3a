"""A study's components, and its trainer as the last finished round left it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsInputDigests
from qsearch.plugins.components import PYTHON_ONLY, StudyComponents, build_components
from qsearch.plugins.digests import Inputs
from qsearch.plugins.facts import SupportsDataFacts
from qsearch.plugins.protocols import Split, Trainer
from qsearch.provenance.session import require_same_inputs
from qsearch.spec.sections import OBJECTIVE, PluginSpec
from qsearch.storage.checkpoints import read_adapter, read_data_facts
from qsearch.storage.directory import read_study_yaml
from qsearch.storage.paths import STUDY_YAML
from qsearch.storage.study_record import StudyRecord


def study_components(
    directory: Path, record: StudyRecord, length: int | None = None
) -> StudyComponents:
    """Return a study's components, whose trainer has loaded nothing yet.

    ``length`` is that of sequences, instead of the study's own (``task.length``).

    Raises:
        InputError: If the study has no trainer, or its YAML is not valid.
    """
    if record.trainer == OBJECTIVE:
        raise InputError(f"{directory}: {PYTHON_ONLY}")
    path = directory / STUDY_YAML
    spec = read_study_yaml(path)
    if length is not None:
        name, options = spec.task.name, spec.task.options
        if "length" not in options:
            raise InputError(f"--length: task {name!r} has no option 'length'")
        task = PluginSpec(name=name, **{**options, "length": length})
        spec = spec.model_copy(update={"task": task})
    components = build_components(spec, str(path))
    facts, trainer = read_data_facts(directory), components.trainer
    if facts is not None and isinstance(trainer, SupportsDataFacts):
        trainer.use_data_facts(facts)
    return components


def own_inputs(
    directory: Path, record: StudyRecord, components: StudyComponents, splits: Sequence[Split]
) -> Inputs:
    """Return the model and the examples of splits, as far as the trainer identifies them.

    Both are loaded for it. Examples that the study has not read are not compared.

    Raises:
        InputError: If they are not those of the study.
    """
    inputs = input_digests(components, splits)
    require_same_inputs(directory, record.sessions, inputs)
    return inputs


def input_digests(components: StudyComponents, splits: Sequence[Split]) -> Inputs:
    """Return the model and the examples of splits, as far as a trainer identifies them."""
    trainer = components.trainer
    return trainer.input_digests(splits) if isinstance(trainer, SupportsInputDigests) else Inputs()


def load_last_state(directory: Path, record: StudyRecord, trainer: Trainer) -> None:
    """Give a trainer the state of the last finished round, for which it loads the model."""
    trainer.load_state(read_adapter(directory, int(record.latest["round"].iloc[0]))[0])
