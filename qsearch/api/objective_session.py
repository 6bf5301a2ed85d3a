"""An open study of an objective: trials asked for and results reported, one process at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from qsearch._text import in_one_line
from qsearch.api.model_space import Space
from qsearch.api.objective import ObjectiveTask, ObjectiveTrainer
from qsearch.api.observation import Observation
from qsearch.api.trial import Trial
from qsearch.errors import InputError, ObjectiveError
from qsearch.execution.executor import Failure
from qsearch.experiment.url import storage_errors
from qsearch.monitoring.events import EventKind
from qsearch.plugins.components import StudyComponents
from qsearch.plugins.evaluation import Evaluation, MetricValue
from qsearch.space.configuration import Configuration
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.directory import prepare_directory
from qsearch.storage.objective_file import ObjectiveFacts, read_objective, write_objective
from qsearch.storage.study_record import StudyRecord
from qsearch.study.run import StudySession
from qsearch.study.sequential import SequentialSearch

_SMALL = 1e-6
"""A loss of which Ax keeps fewer than four digits."""

_log = logging.getLogger("qsearch")


class ObjectiveSession:
    """Holds the study's directory from its making until it is closed."""

    def __init__(self, space: Space, spec: StudySpec, directory: Path) -> None:
        self._space, self._directory = space, directory
        task = ObjectiveTask(directory, spec.task)
        self._metrics = task.metrics
        self._pending: dict[int, float] = {}
        self._lock = threading.RLock()  # Workers may be threads that tell their results.
        self._process = os.getpid()
        components = StudyComponents(
            spec,
            space.quantizer,
            task,
            ObjectiveTrainer(space),
            space.configurations,
        )
        prepare_directory(directory)
        self._held = ExitStack()
        with storage_errors(directory):
            session = StudySession(components, directory, has_rounds=False)
            self._session = self._held.enter_context(session)
            self._search = SequentialSearch(session.study)

    @property
    def done(self) -> int:
        """How many trials have a result, failures included."""
        return self._search.done

    def ask(self) -> Trial | None:
        """Return the next trial to evaluate; None if the space has none left."""
        with self._lock, storage_errors(self._directory):
            number = self._search.ask(self._pending)
            if number is None:
                return None
            self._pending[number] = time.monotonic()
            return self._trial(number)

    def report(self, number: int, observed: Observation) -> Trial:
        """Save what was observed of a trial that was asked for."""
        with self._lock:
            return self._report(number, observed)

    def _report(self, number: int, observed: Observation) -> Trial:
        self.require_pending(number)
        if missing := [m.name for m in self._metrics if m.name not in observed.metrics]:
            raise ObjectiveError(
                f"trial {number}: metrics lacks {missing[0]!r}, a metric of the study; it has"
                f" {sorted(observed.metrics)}"
            )
        own = {m.name: MetricValue(observed.metrics[m.name]) for m in self._metrics}
        if 0 < abs(observed.loss) < _SMALL:
            _log.warning(
                "trial %s: its loss %g is kept with ten decimals; if losses differ by less,"
                " multiply them by a constant",
                number,
                observed.loss,
            )
        facts = read_objective(self._directory)
        if facts.metrics and facts.examples != observed.examples:
            here, before = (
                "an unknown number of" if examples is None else examples
                for examples in (observed.examples, facts.examples)
            )
            raise ObjectiveError(
                f"trial {number}: its loss is a mean over {here} examples, those before over"
                f" {before}; all losses of a study are of the same examples"
            )
        seconds = time.monotonic() - self._pending[number]
        metrics = {**facts.metrics, number: dict(observed.metrics)}
        with storage_errors(self._directory):
            # First: what is there without a result is replaced when the trial is evaluated again.
            write_objective(self._directory, ObjectiveFacts(observed.examples, metrics))
            evaluation = Evaluation(observed.loss, observed.standard_error, own, seconds)
            self._search.report(number, evaluation)
        del self._pending[number]
        stored = self._session.study.trials.evaluated_in(1)[number]
        return dataclasses.replace(
            self._trial(number),
            loss=stored.loss,
            standard_error=stored.standard_error,
            metrics=observed.metrics,
        )

    def report_failure(self, number: int, reason: str) -> None:
        """Save that a trial that was asked for has no result, and will have none."""
        with self._lock, storage_errors(self._directory):
            self.require_pending(number)
            self._search.report(number, Failure(in_one_line(reason)))
            del self._pending[number]

    def save(self) -> StudyRecord:
        """Save the results so far, estimated losses included, and return them."""
        with self._lock, storage_errors(self._directory):
            return self._search.save()

    def close(self, reason: str = "closed", error: BaseException | None = None) -> None:
        """Save the results and free the directory; an exception, if one ends it, is logged."""
        if os.getpid() != self._process:
            return  # A fork has no part in it.
        kind = EventKind.FINISHED
        if error is not None:
            interrupted = isinstance(error, KeyboardInterrupt)
            kind = EventKind.INTERRUPTED if interrupted else EventKind.STOPPED
            reason = str(error)
        # After an exception, a second one must not hide it.
        quiet = contextlib.suppress(Exception) if error else contextlib.nullcontext()
        with self._lock, self._held:
            with quiet:
                self.save()
            with quiet, storage_errors(self._directory):
                self._session.emit(kind, 1, reason=reason)

    def _trial(self, number: int) -> Trial:
        trials = self._session.study.trials
        configuration = self._space.decode(trials.index(number))
        nbytes = self._space.file_bytes(configuration)
        return Trial(number, configuration, trials.average_bits(number), file_bytes=nbytes)

    def require_pending(self, number: int, configuration: Configuration | None = None) -> None:
        """Refuse a trial that does not wait for a result, or has another configuration."""
        if number in self._pending and configuration not in (
            None,
            self._session.study.trials.configuration(number),
        ):
            raise InputError(f"trial {number}: it has another configuration in this study")
        if number not in self._pending:
            raise InputError(
                f"trial {number}: it does not wait for a result; those that do are"
                f" {sorted(self._pending)}"
            )
