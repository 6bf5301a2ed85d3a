"""Opening a study: its directory claimed, its session recorded, its experiment opened."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from qsearch._arrays import Floats
from qsearch.errors import InputError
from qsearch.execution.executor import Executor
from qsearch.experiment.consistency import require_agreement
from qsearch.experiment.database import Database
from qsearch.experiment.loading import open_trials
from qsearch.experiment.node import QsearchNode
from qsearch.experiment.rebuilding import rebuild_trials
from qsearch.experiment.trials import SEARCH
from qsearch.monitoring.events import Emit, EventKind
from qsearch.plugins.capabilities import SupportsFootprint, SupportsInputDigests
from qsearch.plugins.components import StudyComponents, with_new_options
from qsearch.plugins.digests import Inputs
from qsearch.plugins.facts import SupportsDataFacts
from qsearch.plugins.trainer_knobs import trainer_knobs
from qsearch.provenance.environment import find_machine, find_versions
from qsearch.provenance.git import source_states
from qsearch.provenance.session import Session, environment_changes, require_same_inputs
from qsearch.search.candidate_pool import SearchSettings
from qsearch.search.initial_set import (
    first_set,
    require_budgets,
    require_two,
)
from qsearch.spec.search_spec import InitialSpec, SearchSpec
from qsearch.spec.study_spec import StudySpec, differences
from qsearch.storage.checkpoints import write_data_facts
from qsearch.storage.directory import has_results, read_study_yaml, write_study_yaml
from qsearch.storage.measurements import (
    read_footprint,
    read_measurement,
    write_footprint,
    write_measurement,
)
from qsearch.storage.paths import DATA_FACTS, QUANTIZATION_ERROR, RESTORED, STUDY_FILE, STUDY_YAML
from qsearch.storage.round_state import RoundState
from qsearch.storage.session_files import read_sessions, write_sessions
from qsearch.storage.study_record import read_facts
from qsearch.study.file_bytes import FileBytes, SearchSize
from qsearch.study.proxy_scores import first_scores
from qsearch.study.recipes import Recipes, new_rows, recipe_rows
from qsearch.study.results import save_record, study_table
from qsearch.study.running_study import RunningStudy
from qsearch.study.warnings import source_precision, study_warnings, terms


def claim_directory(spec: StudySpec, directory: Path) -> list[str]:
    """Write the resolved study, or require that the directory's is the same but for its limits.

    A directory without results takes any study: whatever stopped the last start, a wrong option
    perhaps, left nothing that another study could take for its own. A study that stopped may be
    resumed with other limits: ``search.stop`` and ``failures`` may change, ``search.rounds`` rise.
    Those that differ are returned, one line for each.
    """
    path = directory / STUDY_YAML
    if not has_results(directory):
        write_study_yaml(directory, spec)
        return []
    if not path.is_file():
        raise InputError(
            f"{path} is missing, but the directory holds results; restore it, or give another --out"
        )
    before = with_new_options(read_study_yaml(path))
    limits = {
        "rounds": max(spec.search.rounds, before.search.rounds),
        "stop": spec.search.stop,
    }
    search = before.search.model_copy(update=limits)
    allowed = before.model_copy(update={"search": search, "failures": spec.failures})
    if refused := differences(allowed, spec):
        raise InputError(
            f"{path} differs from this study: {'; '.join(refused)};"
            " run the same study to resume, or give another --out"
        )
    return differences(before, spec)


def record_session(directory: Path, components: StudyComponents, emit: Emit) -> tuple[Session, ...]:
    """Record what this session runs on, and report what changed since the one before.

    Call it before anything is measured; model and data may be loaded for it. The sessions are
    returned, this one included. Results of another model or other examples are an InputError.
    """
    before = read_sessions(directory) if has_results(directory) else ()
    warnings = study_warnings(components)
    notes = [*terms(components), *warnings]
    if notes and not before:
        emit(EventKind.NOTED, notes=notes)
    session = Session(
        start=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=find_versions(components.spec),
        machine=find_machine(),
        sources=source_states(),
        inputs=_inputs(components),
        source_precision=source_precision(components),
        warnings=warnings,
    )
    require_same_inputs(directory, before, session.inputs, ", or give another --out")
    sessions = (*before, session)
    write_sessions(directory, sessions)
    changed = environment_changes(before[-1], session) if before else []
    if changed:
        emit(EventKind.ENVIRONMENT_CHANGED, changed=changed)
    return sessions


def open_study(
    components: StudyComponents,
    directory: Path,
    database: Database,
    rounds: list[RoundState],
    sessions: tuple[Session, ...],
    error: Floats,
    size: SearchSize,
    recipes: Recipes,
    executor: Executor,
    emit: Emit,
) -> RunningStudy:
    """Open the study's experiment with its first set, new or as it was left."""
    spec, search = components.spec, components.spec.search
    facts = directory / DATA_FACTS
    if isinstance(components.trainer, SupportsDataFacts) and not facts.is_file():
        write_data_facts(directory, components.trainer.data_facts())
    if (directory / STUDY_FILE).is_file():
        read_facts(directory)  # A damaged one is refused, not replaced.
    settings = SearchSettings(budgets=size.budgets)
    if not search.local_search:
        settings = replace(settings, steps=0)
    space, metrics = components.space, components.task.metrics
    node = QsearchNode(space, size.bits, spec.seed, search.segments, settings)
    names = [metric.name for metric in metrics]
    trials = open_trials(database, directory, spec.name, space, names, node, search.objective)
    study = RunningStudy(
        *(directory, components, trials, node.searcher, rounds, sessions, error, size),
        *(executor, emit),
    )
    _attach_first_set(study, recipes)
    if (directory / RESTORED).exists():
        proposed = "random" if search.propose == "random" else SEARCH
        rebuild_trials(trials, directory, space, proposed)
    table = study_table(study)
    require_agreement(directory, database.label, table, trials.metrics, len(trials), rounds)
    save_record(study, table)
    return study


def quantization_error(components: StudyComponents, directory: Path, emit: Emit) -> Floats:
    """Return the relative squared error of each layer (layers × choices), measured once.

    From then on the directory is the study's, so it comes before the database.
    """
    saved = read_measurement(directory, QUANTIZATION_ERROR)
    if saved is not None:
        return saved
    start = time.monotonic()
    emit(EventKind.MEASURING_QUANTIZATION_ERROR, 1)
    error = components.trainer.quantization_error(components.space.choices.layer_configurations)
    write_measurement(directory, QUANTIZATION_ERROR, error)
    emit(EventKind.MEASURED_QUANTIZATION_ERROR, 1, seconds=time.monotonic() - start)
    return error


def search_size(components: StudyComponents, directory: Path) -> SearchSize:
    """Return how large configurations are, and the interval that is searched.

    The footprint is measured once, and needs the model, which the session has loaded.

    Raises:
        InputError: If no configuration is within the study's interval of bytes.
    """
    trainer, search = components.trainer, components.spec.search
    footprint = read_footprint(directory)
    if footprint is None and isinstance(trainer, SupportsFootprint):
        footprint = trainer.footprint()
        write_footprint(directory, footprint)
    if footprint is None:
        assert search.bits is not None, "components refuse bytes of a trainer without a footprint"
        return SearchSize(search.bits, None, search.budgets)
    of_files = FileBytes(components.space, components.quantizer, footprint, components.trainer)
    if search.bits is not None:
        return SearchSize(search.bits, of_files, search.budgets)
    assert search.bytes is not None
    bits = of_files.average_bits(search.bytes)
    if isinstance(search.initial, InitialSpec):
        require_budgets(components.space, search.initial, bits)
    return SearchSize(bits, of_files, tuple(map(of_files.bits_within, search.budgets)))


def _attach_first_set(study: RunningStudy, recipes: Recipes) -> None:
    search, space = study.spec.search, study.components.space
    generator = np.random.default_rng([study.spec.seed, 0])
    error, initial, bits = study.quantization_error, search.initial, study.size.bits
    scores = first_scores(study)
    # What a trainer's knobs are worth is not known before it has trained.
    by_value = [knob.name for knob in trainer_knobs(study.components.trainer)]
    wanted = study.size.budgets
    rows = first_set(space, error, scores, initial, bits, generator, wanted, by_value)
    # After all others, whose draws do not depend on recipes.
    rows = new_rows(rows, recipe_rows(space, recipes, bits))
    require_two(rows, _interval_text(search, bits))
    study.trials.attach(0, rows, is_initial=True)


def _interval_text(search: SearchSpec, bits: tuple[float, float]) -> str:
    """Return the interval that is searched as the study's YAML names it."""
    inside = f"[{bits[0]:.6g}, {bits[1]:.6g}]"
    if search.bytes is None:
        return f"search.average_bits: {inside}"
    low, high = search.bytes
    return f"search.bytes: [{low}, {high}] ({inside} average bits)"


def _inputs(components: StudyComponents) -> Inputs:
    trainer = components.trainer
    return trainer.input_digests() if isinstance(trainer, SupportsInputDigests) else Inputs()
