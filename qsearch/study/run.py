"""The loop: train on the set, evaluate it, search for candidates, filter by segments, again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from ax.storage.sqa_store.db import get_engine
from sqlalchemy.engine import Engine
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError

from qsearch._text import one_line
from qsearch.execution.opening import open_executor
from qsearch.execution.workers import Workers
from qsearch.experiment.client import close_database, require_own_experiment
from qsearch.experiment.lease import study_lease
from qsearch.experiment.reconnecting import (
    STORAGE_WAIT,
    ReconnectPolicy,
    is_disconnect,
    wait_for_connections,
)
from qsearch.experiment.transactions import transactions_saved
from qsearch.experiment.url import storage_errors
from qsearch.monitoring.events import Event, EventKind, Observer, event_log, last_event
from qsearch.monitoring.progress_file import progress_file
from qsearch.plugins.components import build_components
from qsearch.search.initial_set import (
    require_budgets,
)
from qsearch.spec.search_spec import InitialSpec
from qsearch.spec.stopping import out_of_time, stop_reason
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.clock import Clock
from qsearch.storage.directory import (
    prepare_directory,
    write_study_yaml,
)
from qsearch.storage.files import remove_leftovers
from qsearch.storage.lock import study_lock
from qsearch.storage.paths import LOG
from qsearch.storage.round_state import read_rounds
from qsearch.storage.study_record import StudyRecord
from qsearch.study.context import Study
from qsearch.study.opening import claim_directory, open_study
from qsearch.study.recording import save_record
from qsearch.study.round import evaluations_before, run_round
from qsearch.study.sessions import record_session
from qsearch.study.training import restore_adapter


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
        remove_leftovers(directory)
        clock = Clock(directory)
        log, keep = event_log(directory / LOG), progress_file(directory)

        def emit(event: Event) -> None:
            clock.keep()
            log(event)
            keep(event)
            if observer:
                observer(event)

        components = build_components(spec, where)
        if isinstance(spec.search.initial, InitialSpec):
            require_budgets(components.space, spec.search.initial, spec.search.average_bits)
        changed = claim_directory(components.spec, directory)
        held.enter_context(clock.session())
        lease = None
        if storage_url:
            # Before the lease, which is free for a moment after an outage: no other study of the
            # same name should take it.
            require_own_experiment(storage_url, components.spec.name, directory)
            lease = held.enter_context(study_lease(storage_url, components.spec.name))
        if dead:
            emit(
                Event(
                    EventKind.TAKEN_OVER,
                    len(read_rounds(directory)) + 1,
                    {"owner": dead.describe()},
                )
            )
        if changed or not _is_finished(directory):
            record_session(directory, components, emit)
        executor = held.enter_context(closing(open_executor(components, workers)))

        def open_(prepare: Callable[[Engine], None]) -> Study:
            def prepare_all(engine: Engine) -> None:
                prepare(engine)
                if lease:
                    lease.renew(engine)
                    # What this process writes once another has taken the study stays out of it.
                    listen(engine, "commit", lease.require)

            return open_study(components, directory, storage_url, emit, executor, prepare_all)

        held.callback(close_database)
        study = open_(lambda engine: None)  # Fails at once where the database cannot be reached.
        study.emit(EventKind.STARTED, len(read_rounds(directory)) + 1, rounds=spec.search.rounds)
        if changed:
            write_study_yaml(directory, components.spec)
            study.emit(EventKind.LIMITS_CHANGED, len(read_rounds(directory)) + 1, changed=changed)
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
    cut_off = ReconnectPolicy(wait)

    def emit(kind: EventKind, **fields: object) -> None:
        study.emit(kind, len(read_rounds(directory)) + 1, **fields)

    def should_stop() -> bool:
        return out_of_time(study.spec.search, clock.hours)

    lost_at: float | None = None

    def patient(engine: Engine) -> None:
        # While the study is cut off, that is told already.
        wait_for_connections(
            engine, wait, lambda kind, **fields: None if lost_at else emit(kind, **fields)
        )

    patient(get_engine())
    try:
        while True:
            try:
                if lost_at is not None:
                    # What Ax has in memory may be ahead of what the database has.
                    study = open_(patient)
                    emit(EventKind.STORAGE_BACK, seconds=time.monotonic() - lost_at)
                    lost_at = None
                restore_adapter(study)
                if reason := _stop_reason(study, clock):
                    break
                study.executor.start()
                round = len(read_rounds(directory)) + 1
                run_round(study, round, should_stop)
            except DBAPIError as error:
                if not is_disconnect(error):
                    raise
                if lost_at is None:
                    emit(EventKind.STORAGE_LOST, reason=one_line(error))
                    lost_at = time.monotonic()
                cut_off.pause(error, transactions_saved())
    except BaseException as error:
        # What was evaluated shall be readable; a second error must not hide the first.
        with contextlib.suppress(Exception):
            save_record(study)
        with contextlib.suppress(Exception):
            kind = (
                EventKind.INTERRUPTED if isinstance(error, KeyboardInterrupt) else EventKind.STOPPED
            )
            study.emit(kind, len(read_rounds(directory)) + 1, reason=str(error))
        raise
    study.emit(EventKind.FINISHED, max(len(read_rounds(directory)), 1), reason=reason)
    return save_record(study)


def _is_finished(directory: Path) -> bool:
    """Return whether the last session ran the study to a limit."""
    return (last_event(directory / LOG) or {}).get("event") == "finished"


def _stop_reason(study: Study, clock: Clock) -> str:
    rounds = read_rounds(study.directory)
    return stop_reason(
        study.spec.search,
        [state.record.hypervolume for state in rounds],
        evaluations_before(study, len(rounds) + 1),
        clock.hours,
    )
