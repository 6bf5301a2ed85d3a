"""Evaluation in this process, one configuration after the other."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator, Sequence
from pathlib import Path

from qsearch.errors import EvaluationError
from qsearch.execution.executor import (
    ExecutorEvent,
    Failure,
    Result,
    ResultStream,
    after_attempts,
    evaluate_one,
)
from qsearch.execution.time_limit import require_main_thread
from qsearch.monitoring.events import EventKind
from qsearch.plugins.protocols import Trainer, TrainerState
from qsearch.plugins.references import SupportsReferenceFile
from qsearch.space.configuration import Configuration
from qsearch.spec.failures import FailuresSpec


class SerialExecutor:
    """Evaluates one after another, with the study's own trainer, which has the state in use."""

    workers = 1

    def __init__(self, trainer: Trainer, failures: FailuresSpec, directory: Path) -> None:
        self._trainer = trainer
        self._failures = failures
        self._directory = directory
        self._state: TrainerState | None = None

    def start(self) -> None:
        """Check that evaluations can be ended here, if they have a time limit."""
        if self._failures.timeout_seconds is not None:
            require_main_thread()

    def use(self, state: TrainerState) -> None:
        """Remember the state that the trainer has, in case an evaluation takes too long."""
        self._state = state

    def evaluate(self, configurations: Sequence[Configuration]) -> ResultStream:
        """Evaluate in the order given; see :meth:`Executor.evaluate`."""
        for position, configuration in enumerate(configurations):
            attempt, result = 1, self._attempt(configuration)
            while isinstance(result, Failure) and attempt <= self._failures.retries:
                values = {"attempt": attempt, "reason": result.reason}
                yield ExecutorEvent(EventKind.RETRY, values, position)
                gc.collect()  # Where memory ran out, all of it should be free again.
                attempt, result = attempt + 1, self._attempt(configuration)
            if isinstance(result, Failure):
                result = after_attempts(result, attempt)
            yield position, result

    def _attempt(self, configuration: Configuration) -> Result:
        seconds = self._failures.timeout_seconds
        return evaluate_one(self._trainer, configuration, seconds, self._restore)

    def _restore(self) -> None:
        if self._state is not None:
            self._trainer.load_state(self._state)
            if isinstance(self._trainer, SupportsReferenceFile):
                # Else the next evaluation would make it, within its own time.
                with contextlib.suppress(EvaluationError):
                    self._trainer.prepare_reference(self._directory)

    def train(
        self, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, TrainerState] | ExecutorEvent]:
        """Train nothing: without workers, the trainer itself trains one after another."""
        yield from ()

    def close(self) -> None:
        """Nothing to release."""
