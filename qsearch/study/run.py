"""The loop: train on the set, evaluate it, search for candidates, filter by segments, again."""

from __future__ import annotations

import contextlib
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from sqlalchemy.event import listen

from qsearch.execution.selection import open_executor
from qsearch.execution.workers import Workers
from qsearch.experiment.database import STORAGE_WAIT
from qsearch.experiment.database_lock import hold_study
from qsearch.experiment.loading import open_database, require_own_experiment
from qsearch.experiment.url import storage_errors
from qsearch.monitoring.events import Event, EventKind, Observer, all_of, event_log, last_event
from qsearch.monitoring.tracker import status_keeper
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.search.initial_set import require_budgets
from qsearch.spec.search_spec import InitialSpec
from qsearch.spec.stopping import out_of_time, stop_reason
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.clock import Clock
from qsearch.storage.directory import prepare_directory, write_study_yaml
from qsearch.storage.files import remove_leftovers
from qsearch.storage.lock import study_lock
from qsearch.storage.paths import LOG
from qsearch.storage.round_state import RoundState, read_rounds
from qsearch.storage.session_files import read_sessions
from qsearch.storage.study_record import StudyRecord
from qsearch.study.opening import (
    claim_directory,
    open_study,
    quantization_error,
    record_session,
    search_size,
)
from qsearch.study.recipes import keep_recipes, recipe_rows, study_recipes
from qsearch.study.results import save_record
from qsearch.study.round import run_round
from qsearch.study.running_study import RunningStudy
from qsearch.study.training import restore_adapter


def run_spec(
    spec: StudySpec,
    directory: Path,
    storage_url: str | None = None,
    observer: Observer | None = None,
    source: str = "study",
    workers: Workers | None = None,
    storage_wait: float = STORAGE_WAIT,
) -> StudyRecord:
    """Run a study, or resume it where it stopped, and return its results.

    What a stopped study had finished is kept: a training, an evaluation or a round that was
    saved is not repeated, and the rest comes out as if it had never stopped.

    Args:
        spec: The study.
        directory: Where its files are kept; it may not hold another study.
        storage_url: SQLAlchemy URL of the database; None keeps it in the directory.
        observer: Gets every event, for progress.
        source: The file that the study comes from, for error messages.
        workers: Who evaluates; None is this process.
        storage_wait: Seconds to wait for a database that is lost while the study runs.
    """
    components = build_components(spec, source)
    prepare_directory(directory)
    with (
        storage_errors(directory),
        StudySession(
            components, directory, storage_url, observer, workers, storage_wait
        ) as session,
    ):
        return session.run()


@dataclass
class StudySession:
    """One session of a study: from its lock to its last event.

    As a context it holds the directory, the study's lock in a shared database, the database and
    the workers. Other arguments are those of :func:`run_spec`.
    """

    components: StudyComponents
    directory: Path
    storage_url: str | None = None
    observer: Observer | None = None
    workers: Workers | None = None
    storage_wait: float = STORAGE_WAIT
    has_rounds: bool = True
    """Whether finished rounds stay finished; else its one round is open again."""

    def __post_init__(self) -> None:
        self._held = ExitStack()
        self._rounds: list[RoundState] = []

    def __enter__(self) -> Self:
        with ExitStack() as held:
            self.study = self._open(held)
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    def emit(self, kind: EventKind, round: int | None = None, **fields: object) -> None:
        """Send an event, by default of the current round: to log, status file and observer."""
        self._clock.keep()
        self._send(Event(kind, len(self._rounds) + 1 if round is None else round, fields))

    def run(self) -> StudyRecord:
        """Run rounds until a limit is reached, and return the results."""
        study = self.study
        try:
            restore_adapter(study)
            while not (reason := self._stop_reason()):
                study.executor.start()
                run_round(study, self._should_stop)
        except BaseException as error:
            is_interrupt = isinstance(error, KeyboardInterrupt)
            # What was evaluated must be readable; a second error must not hide the first.
            with contextlib.suppress(Exception):
                save_record(study)
            with contextlib.suppress(Exception):
                self.emit(
                    EventKind.INTERRUPTED if is_interrupt else EventKind.STOPPED, reason=str(error)
                )
            raise
        self.emit(EventKind.FINISHED, max(len(study.rounds), 1), reason=reason)
        return save_record(study)

    def _open(self, held: ExitStack) -> RunningStudy:
        directory, url = self.directory, self.storage_url
        dead = held.enter_context(study_lock(directory))
        remove_leftovers(directory)
        self._rounds = read_rounds(directory) if self.has_rounds else []
        self._clock = Clock(directory)
        components, spec = self.components, self.components.spec
        if isinstance(spec.search.initial, InitialSpec) and spec.search.bits is not None:
            require_budgets(components.space, spec.search.initial, spec.search.bits)
        recipes = study_recipes(components, directory)
        recipe_rows(components.space, recipes, spec.search.bits)
        changed = claim_directory(spec, directory)
        keep_recipes(directory, recipes)
        # A study that is refused writes nothing into the directory of another.
        observers = [event_log(directory / LOG), status_keeper(directory, spec.search)]
        self._send = all_of([*observers, *([self.observer] if self.observer else [])])
        held.enter_context(self._clock.session())
        lock = None
        if url:
            # Before the lock, which is free for a moment after an outage: no other study of the
            # same name may take it then.
            require_own_experiment(url, spec.name, directory)
            lock = held.enter_context(hold_study(url, spec.name))
        if dead:
            self.emit(EventKind.TAKEN_OVER, owner=dead.describe())
        sessions = read_sessions(directory)
        is_finished = (last_event(directory / LOG) or {}).get("event") == EventKind.FINISHED
        if changed or not is_finished or not self.has_rounds:
            sessions = record_session(directory, components, self.emit)
        executor = held.enter_context(closing(open_executor(components, self.workers, directory)))
        size = search_size(components, directory)  # Before the directory is the study's.
        recipe_rows(components.space, recipes, size.bits)
        error = quantization_error(components, directory, self.emit)
        database = open_database(directory, url, self.storage_wait, self.emit)
        held.enter_context(closing(database))
        if lock:
            lock.renew(database.engine)
            database.before_reload = partial(lock.renew, database.engine)
            # What this process writes once another has taken the study stays out of it.
            listen(database.engine, "commit", lock.require)
        study = open_study(
            components,
            directory,
            database,
            self._rounds,
            sessions,
            error,
            size,
            recipes,
            executor,
            self.emit,
        )
        self.emit(EventKind.STARTED, rounds=spec.search.rounds)
        if changed:
            write_study_yaml(directory, spec)
            self.emit(EventKind.LIMITS_CHANGED, changed=changed)
        return study

    def _should_stop(self) -> bool:
        return out_of_time(self.components.spec.search, self._clock.hours)

    def _stop_reason(self) -> str:
        """Return why to stop; empty to run the current round."""
        return stop_reason(
            self.study.spec.search,
            [state.record.hypervolume for state in self._rounds],
            self.study.trials.count_before(self.study.round),
            self._clock.hours,
        )
