"""Opening a study: claiming its directory, its experiment and its initial configurations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sqlalchemy.engine import Engine

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.execution.executor import Executor
from qsearch.experiment.client import open_client
from qsearch.experiment.consistency import require_agreement
from qsearch.experiment.node import QsearchNode
from qsearch.experiment.rebuilding import rebuilt_experiment
from qsearch.experiment.transactions import one_transaction
from qsearch.monitoring.events import Event, EventKind, Observer
from qsearch.plugins.capabilities import SupportsFootprint
from qsearch.plugins.components import StudyComponents
from qsearch.search.candidate_pool import SearchSettings
from qsearch.search.initial_set import (
    initial_configurations,
    named_configurations,
)
from qsearch.search.pareto import segment_edges
from qsearch.spec.search_spec import InitialSpec
from qsearch.spec.study_spec import StudySpec, differences
from qsearch.storage.directory import (
    has_results,
    read_study_yaml,
    write_study_yaml,
)
from qsearch.storage.measurements import (
    read_footprint,
    read_measurement,
    write_footprint,
    write_measurement,
)
from qsearch.storage.paths import QUANTIZATION_ERROR, STUDY_YAML
from qsearch.storage.round_state import read_rounds
from qsearch.study.context import Study
from qsearch.study.recording import save_record, trial_rows


def open_study(
    components: StudyComponents,
    directory: Path,
    storage_url: str | None,
    observer: Observer,
    executor: Executor,
    prepare: Callable[[Engine], None],
) -> Study:
    """Open the study's experiment with its initial trials, new or as it was left."""
    search, seed = components.spec.search, components.spec.seed
    error = _quantization_error(components, directory, observer)
    initial = _initial(components, error)
    client, node = open_client(
        directory,
        storage_url,
        components.spec.name,
        components.space,
        QsearchNode(
            components.space,
            search.average_bits,
            seed,
            search.segments,
            SearchSettings() if search.local_search else SearchSettings(steps=0),
        ),
        components.task.metric.name,
        prepare,
        lambda: rebuilt_experiment(
            directory,
            components.spec.name,
            components.space,
            components.task.metric.name,
            initial,
            "random" if search.propose == "random" else "search",
        ),
    )
    _keep_footprint(components, directory)
    edges = segment_edges(search.average_bits, search.segments)
    study = Study(directory, components, client, node, error, edges, observer, executor)
    _attach_initial(study, initial)
    table = trial_rows(study)
    require_agreement(directory, table, len(read_rounds(directory)))
    save_record(study, table)
    return study


def claim_directory(spec: StudySpec, directory: Path) -> list[str]:
    """Write the resolved study, or require that the directory's is the same but for its limits.

    A directory without results takes any study: whatever stopped the last start, a wrong option
    perhaps, left nothing that another study could take for its own. A study that stopped later can
    be let go on: ``search.stop`` and ``failures`` may change, ``search.rounds`` rise.

    Returns:
        The limits that differ, one line for each.
    """
    path = directory / STUDY_YAML
    if not has_results(directory):
        write_study_yaml(directory, spec)
        return []
    if not path.is_file():
        raise InputError(
            f"{path} is missing, but the directory holds results; restore it, or give another --out"
        )
    before = read_study_yaml(path)
    refused = differences(_with_limits_of(spec, before), spec)
    if refused:
        raise InputError(
            f"{path} differs from this study: {'; '.join(refused)};"
            " run the same study to resume, or give another --out"
        )
    return differences(before, spec)


def _with_limits_of(spec: StudySpec, before: StudySpec) -> StudySpec:
    limits = {
        "rounds": max(spec.search.rounds, before.search.rounds),
        "stop": spec.search.stop,
    }
    search = before.search.model_copy(update=limits)
    return before.model_copy(update={"search": search, "failures": spec.failures})


def _quantization_error(components: StudyComponents, directory: Path, observer: Observer) -> Floats:
    saved = read_measurement(directory, QUANTIZATION_ERROR)
    if saved is not None:
        return saved
    start = time.monotonic()
    observer(Event(EventKind.MEASURING_QUANTIZATION_ERROR, 1))
    error = components.trainer.quantization_error(components.space.choices.layer_configurations)
    write_measurement(directory, QUANTIZATION_ERROR, error)
    observer(Event(EventKind.MEASURED_QUANTIZATION_ERROR, 1, {"seconds": time.monotonic() - start}))
    return error


def _keep_footprint(components: StudyComponents, directory: Path) -> None:
    """Write what the model takes on a device, which needs the model that was just measured."""
    if isinstance(components.trainer, SupportsFootprint) and read_footprint(directory) is None:
        write_footprint(directory, components.trainer.footprint())


def _initial(components: StudyComponents, error: Floats) -> list[tuple[str, Integers]]:
    """Return method and choice indices of each configuration of the first set."""
    spec, space = components.spec, components.space
    generator = np.random.default_rng([spec.seed, 0])
    initial, bits = spec.search.initial, spec.search.average_bits
    if isinstance(initial, InitialSpec):
        return named_configurations(space, error, initial, bits, generator)
    return initial_configurations(space, error, initial, bits, generator)


def _attach_initial(study: Study, initial: Sequence[tuple[str, Integers]]) -> None:
    waiting = range(len(study.client._experiment.trials), len(initial))
    if not waiting:
        return  # An empty transaction would count as progress.
    with one_transaction():
        for position in waiting:
            method, index = initial[position]
            study.client.attach_trial(
                dict(study.components.space.parameters(index)), arm_name=f"{method}-{position}"
            )
