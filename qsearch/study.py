"""The loop: train on the set, evaluate it, search for candidates, filter by segments, again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np

from qsearch.assembly import Assembly, assemble
from qsearch.capabilities import TellsFootprint
from qsearch.clock import Clock
from qsearch.database import open_client, storage_errors
from qsearch.errors import InputError
from qsearch.events import Event, Observer, event_log
from qsearch.footprint import read_footprint, write_footprint
from qsearch.generation import QsearchNode
from qsearch.initial import initial_configurations, named_configurations, require_budgets
from qsearch.lock import study_lock
from qsearch.pareto import segment_edges
from qsearch.recording import Study, save_record
from qsearch.records import StudyRecord, write_atomically
from qsearch.rounds import evaluations_before, run_round
from qsearch.search import SearchSettings
from qsearch.search_spec import InitialSpec
from qsearch.space import Floats
from qsearch.spec import StudySpec, differences, dump_spec, load_spec
from qsearch.stopping import out_of_time, stop_reason
from qsearch.store import (
    LOG,
    QUANTIZATION_ERROR,
    STUDY_YAML,
    has_results,
    prepare_directory,
    read_measurement,
    read_rounds,
    write_measurement,
)
from qsearch.transactions import one_transaction


def run_study(
    spec: StudySpec,
    directory: Path,
    storage_url: str | None = None,
    observer: Observer | None = None,
    where: str = "study",
) -> StudyRecord:
    """Run a study, or go on with it where it stopped.

    What a stopped study had finished is kept: a training, an evaluation or a round that was
    saved is not repeated, and the rest comes out as if it had never stopped.

    Args:
        spec: The study.
        directory: Where its files are kept.
        storage_url: SQLAlchemy URL of the database; None keeps it in the directory.
        observer: Told of every event, for progress.
        where: The file that the study comes from, for error messages.

    Returns:
        The results.

    Raises:
        InputError: If the study, its data or its directory cannot be used, or the directory
            holds another study.
        QsearchError: If it cannot go on, as when every evaluation of a round failed.
    """
    prepare_directory(directory)
    with study_lock(directory), storage_errors(directory):
        clock = Clock(directory)
        parts = assemble(spec, where)
        if isinstance(spec.search.initial, InitialSpec):
            require_budgets(parts.space, spec.search.initial, spec.search.average_bits)
        changed = _claim(parts.spec, directory)
        log = event_log(directory / LOG)

        def tell(event: Event) -> None:
            clock.keep()
            log(event)
            if observer:
                observer(event)

        with clock.session():
            study = _open(parts, directory, storage_url, tell)
            study.tell("started", len(read_rounds(directory)), rounds=spec.search.rounds)
            if changed:
                _write_spec(parts.spec, directory)
                study.tell("limits changed", len(read_rounds(directory)), changed=changed)
            return _run(study, clock)


def _run(study: Study, clock: Clock) -> StudyRecord:
    """Run rounds until a limit is reached."""
    directory, search = study.directory, study.spec.search
    try:
        while not (reason := _stop_reason(study, clock)):
            run_round(study, len(read_rounds(directory)), lambda: out_of_time(search, clock.hours))
    except BaseException as error:
        # What was evaluated shall be readable; a second error must not hide the first.
        with contextlib.suppress(Exception):
            save_record(study)
            kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
            study.tell(kind, len(read_rounds(directory)), reason=str(error))
        raise
    study.tell("finished", max(len(read_rounds(directory)) - 1, 0), reason=reason)
    return save_record(study)


def _stop_reason(study: Study, clock: Clock) -> str:
    rounds = read_rounds(study.directory)
    return stop_reason(
        study.spec.search,
        [state.record.hypervolume for state in rounds],
        evaluations_before(study, len(rounds)),
        clock.hours,
    )


def _open(parts: Assembly, directory: Path, storage_url: str | None, observer: Observer) -> Study:
    """Open the study's experiment with its initial trials, new or as it was left."""
    search, seed = parts.spec.search, parts.spec.seed
    error = _quantization_error(parts, directory, observer)
    client, node = open_client(
        directory,
        storage_url,
        parts.spec.name,
        parts.space,
        QsearchNode(
            parts.space,
            search.average_bits,
            seed,
            search.segments,
            SearchSettings() if search.walks else SearchSettings(steps=0),
        ),
        parts.task.metric.name,
    )
    _keep_footprint(parts, directory)
    edges = segment_edges(search.average_bits, search.segments)
    study = Study(directory, parts, client, node, error, edges, observer)
    _attach_initial(study, error)
    save_record(study)
    return study


def _claim(spec: StudySpec, directory: Path) -> list[str]:
    """Write the resolved study, or require that the directory's is the same but for its limits.

    A directory without results takes any study: whatever stopped the last start, a wrong option
    perhaps, left nothing that another study could take for its own. A study that stopped later can
    be let go on: ``search.stop`` may change, ``search.rounds`` rise.

    Returns:
        The limits that differ, one line for each.
    """
    path = directory / STUDY_YAML
    if not has_results(directory):
        _write_spec(spec, directory)
        return []
    if not path.is_file():
        raise InputError(
            f"{path} is missing, but the directory holds results; restore it, or give another --out"
        )
    before = load_spec(path, resolved=True)
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
    return before.model_copy(update={"search": before.search.model_copy(update=limits)})


def _write_spec(spec: StudySpec, directory: Path) -> None:
    text = dump_spec(spec)
    write_atomically(
        directory / STUDY_YAML, lambda temporary: temporary.write_text(text, encoding="utf-8")
    )


def _quantization_error(parts: Assembly, directory: Path, observer: Observer) -> Floats:
    saved = read_measurement(directory, QUANTIZATION_ERROR)
    if saved is not None:
        return saved
    start = time.monotonic()
    observer(Event("measuring quantization error", 0))
    error = parts.trainer.quantization_error(parts.space.choices.layer_configurations)
    write_measurement(directory, QUANTIZATION_ERROR, error)
    observer(Event("measured quantization error", 0, {"seconds": time.monotonic() - start}))
    return error


def _keep_footprint(parts: Assembly, directory: Path) -> None:
    """Write what the model takes on a device, which needs the model that was just measured."""
    if isinstance(parts.trainer, TellsFootprint) and read_footprint(directory) is None:
        write_footprint(directory, parts.trainer.footprint())


def _attach_initial(study: Study, error: Floats) -> None:
    experiment = study.client._experiment
    search = study.spec.search
    generator = np.random.default_rng([study.spec.seed, 0])
    space, initial, bits = study.parts.space, search.initial, search.average_bits
    if isinstance(initial, InitialSpec):
        wanted = named_configurations(space, error, initial, bits, generator)
    else:
        wanted = initial_configurations(space, error, initial, bits, generator)
    with one_transaction():
        for position in range(len(experiment.trials), len(wanted)):
            method, index = wanted[position]
            study.client.attach_trial(
                dict(study.parts.space.parameters(index)), arm_name=f"{method}-{position}"
            )
