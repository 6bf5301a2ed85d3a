"""The loop: train on the set, evaluate it, search for candidates, filter by segments, again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
from ax.storage.sqa_store.db import get_engine
from sqlalchemy.engine import Engine
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError

from qsearch.agreement import require_agreement
from qsearch.assembly import Assembly, assemble
from qsearch.capabilities import TellsFootprint
from qsearch.clock import Clock
from qsearch.database import (
    close_database,
    open_client,
    require_own_experiment,
    storage_errors,
)
from qsearch.dispatch import open_executor
from qsearch.errors import InputError
from qsearch.events import Event, Observer, event_log, last_event
from qsearch.executors import Executor
from qsearch.footprint import read_footprint, write_footprint
from qsearch.generation import QsearchNode
from qsearch.initial import initial_configurations, named_configurations, require_budgets
from qsearch.lease import study_lease
from qsearch.live import progress_file
from qsearch.lock import study_lock
from qsearch.measurements import QUANTIZATION_ERROR, read_measurement, write_measurement
from qsearch.pareto import segment_edges
from qsearch.patience import (
    STORAGE_WAIT,
    Reconnecting,
    one_line,
    wait_for_connections,
    was_cut_off,
)
from qsearch.recording import Study, save_record, trial_rows
from qsearch.records import StudyRecord
from qsearch.repair import repair
from qsearch.round_training import restore_adapter
from qsearch.rounds import evaluations_before, run_round
from qsearch.search import SearchSettings
from qsearch.search_spec import InitialSpec
from qsearch.sessions import record_session
from qsearch.space import Floats
from qsearch.spec import StudySpec, differences
from qsearch.stopping import out_of_time, stop_reason
from qsearch.store import (
    LOG,
    STUDY_YAML,
    has_results,
    prepare_directory,
    read_rounds,
    read_study_yaml,
    was_finished,
    write_study_yaml,
)
from qsearch.transactions import one_transaction, transactions_saved
from qsearch.workers import Workers


def run_study(
    spec: StudySpec,
    directory: Path,
    storage_url: str | None = None,
    observer: Observer | None = None,
    where: str = "study",
    workers: Workers | None = None,
    storage_wait: float = STORAGE_WAIT,
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
        workers: Who evaluates; None is this process.
        storage_wait: Seconds to wait for a database that goes away while the study runs.

    Returns:
        The results.

    Raises:
        InputError: If the study, its data or its directory cannot be used, or the directory
            holds another study.
        QsearchError: If it cannot go on, as when every evaluation of a round failed.
    """
    prepare_directory(directory)
    with storage_errors(directory), study_lock(directory) as dead, ExitStack() as held:
        damages = repair(directory)
        clock = Clock(directory)
        log, keep = event_log(directory / LOG), progress_file(directory)

        def tell(event: Event) -> None:
            clock.keep()
            log(event)
            keep(event)
            if observer:
                observer(event)

        for damage in damages:
            tell(Event("state damaged", len(read_rounds(directory)), asdict(damage)))
        parts = assemble(spec, where)
        if isinstance(spec.search.initial, InitialSpec):
            require_budgets(parts.space, spec.search.initial, spec.search.average_bits)
        changed = _claim(parts.spec, directory)
        held.enter_context(clock.session())
        if storage_url:
            # Before the lease, which may be stale for a moment after an outage: a study of the
            # same name shall lose it to nobody else's.
            require_own_experiment(storage_url, parts.spec.name, directory)
            lease = held.enter_context(study_lease(storage_url, parts.spec.name, directory))
            dead = dead or (lease.taken_over.owner if lease.taken_over else None)
        if dead:
            tell(Event("taken over", len(read_rounds(directory)), {"owner": dead.describe()}))
        if changed or not _is_finished(directory):
            record_session(directory, parts, tell)
        executor = held.enter_context(closing(open_executor(parts, workers)))

        def open_(prepare: Callable[[Engine], None]) -> Study:
            def prepare_all(engine: Engine) -> None:
                prepare(engine)
                if storage_url:
                    # What this process writes once another has taken the study stays out of it.
                    listen(engine, "commit", lease.require)

            return _open(parts, directory, storage_url, tell, executor, prepare_all)

        held.callback(close_database)
        study = open_(lambda engine: None)  # Fails at once where the database cannot be reached.
        study.tell("started", len(read_rounds(directory)), rounds=spec.search.rounds)
        if changed:
            write_study_yaml(directory, parts.spec)
            study.tell("limits changed", len(read_rounds(directory)), changed=changed)
        return _run(study, clock, open_, storage_wait)


def _run(
    study: Study, clock: Clock, open_: Callable[[Callable[[Engine], None]], Study], wait: float
) -> StudyRecord:
    """Run rounds until a limit is reached.

    Args:
        study: The open study.
        clock: Its clock.
        open_: Opens the study again, preparing the database's engine.
        wait: Seconds to wait for the database.
    """
    directory = study.directory
    cut_off = Reconnecting(wait)

    def tell(kind: str, **fields: object) -> None:
        study.tell(kind, len(read_rounds(directory)), **fields)

    lost_at: float | None = None

    def patient(engine: Engine) -> None:
        # While the study is cut off, that is told already.
        wait_for_connections(
            engine, wait, lambda kind, **fields: None if lost_at else tell(kind, **fields)
        )

    patient(get_engine())
    try:
        while True:
            try:
                if lost_at is not None:
                    # What Ax has in memory may be ahead of what the database has.
                    study = open_(patient)
                    tell("storage back", seconds=time.monotonic() - lost_at)
                    lost_at = None
                restore_adapter(study)
                if reason := _stop_reason(study, clock):
                    break
                study.executor.start()
                round = len(read_rounds(directory))
                run_round(study, round, _time_is_up(study, clock, round))
            except DBAPIError as error:
                if not was_cut_off(error):
                    raise
                if lost_at is None:
                    tell("storage lost", reason=one_line(error))
                    lost_at = time.monotonic()
                cut_off.pause(error, transactions_saved())
    except BaseException as error:
        # What was evaluated shall be readable; a second error must not hide the first.
        with contextlib.suppress(Exception):
            save_record(study)
        with contextlib.suppress(Exception):
            kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
            study.tell(kind, len(read_rounds(directory)), reason=str(error))
        raise
    study.tell("finished", max(len(read_rounds(directory)) - 1, 0), reason=reason)
    return save_record(study)


def _is_finished(directory: Path) -> bool:
    """Return whether the last session ran the study to a limit."""
    return (last_event(directory / LOG) or {}).get("event") == "finished"


def _time_is_up(study: Study, clock: Clock, round: int) -> Callable[[], bool]:
    if was_finished(study.directory, round):
        return lambda: False  # It has had its time.
    return lambda: out_of_time(study.spec.search, clock.hours)


def _stop_reason(study: Study, clock: Clock) -> str:
    rounds = read_rounds(study.directory)
    if was_finished(study.directory, len(rounds)):
        return ""  # What it needs is evaluated.
    return stop_reason(
        study.spec.search,
        [state.record.hypervolume for state in rounds],
        evaluations_before(study, len(rounds)),
        clock.hours,
    )


def _open(
    parts: Assembly,
    directory: Path,
    storage_url: str | None,
    observer: Observer,
    executor: Executor,
    prepare: Callable[[Engine], None],
) -> Study:
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
        prepare,
    )
    _keep_footprint(parts, directory)
    edges = segment_edges(search.average_bits, search.segments)
    study = Study(directory, parts, client, node, error, edges, observer, executor)
    _attach_initial(study, error)
    table = trial_rows(study)
    require_agreement(directory, table, len(read_rounds(directory)))
    save_record(study, table)
    return study


def _claim(spec: StudySpec, directory: Path) -> list[str]:
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
    waiting = range(len(experiment.trials), len(wanted))
    if not waiting:
        return  # Nothing saved is no progress.
    with one_transaction():
        for position in waiting:
            method, index = wanted[position]
            study.client.attach_trial(
                dict(study.parts.space.parameters(index)), arm_name=f"{method}-{position}"
            )
