"""Evaluation in this process, one configuration after the other."""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence

from qsearch.execution.executor import (
    ExecutorEvent,
    Failure,
    Result,
    ResultStream,
    after_attempts,
    evaluate_one,
    too_slow,
)
from qsearch.execution.time_limit import TimeLimitError, require_main_thread, time_limit
from qsearch.monitoring.events import EventKind
from qsearch.plugins.protocols import Trainer, TrainerState
from qsearch.space.configuration import Configuration
from qsearch.spec.failures import FailuresSpec


class SerialExecutor:
    """Evaluates one after another, with the study's own trainer.

    Args:
        trainer: The trainer; it has the state that :meth:`use` is told of.
        failures: How often to try, and how long.
    """

    workers = 1

    def __init__(self, trainer: Trainer, failures: FailuresSpec) -> None:
        self._trainer = trainer
        self._failures = failures
        self._state: TrainerState | None = None

    def start(self) -> None:
        """Check that evaluations can be cut off here, if they may have to be."""
        if self._failures.timeout_seconds is not None:
            require_main_thread()

    def use(self, state: TrainerState) -> None:
        """Remember the state that the trainer has, in case an evaluation is cut off."""
        self._state = state

    def evaluate(self, configurations: Sequence[Configuration]) -> ResultStream:
        """Evaluate in the order given; see :meth:`Executor.evaluate`."""
        for position, configuration in enumerate(configurations):
            attempt, result = 1, self._attempt(configuration)
            while isinstance(result, Failure) and attempt <= self._failures.retries:
                yield ExecutorEvent(
                    EventKind.RETRY, {"attempt": attempt, "reason": result.reason}, position
                )
                gc.collect()  # Where memory ran out, all of it shall be free again.
                attempt, result = attempt + 1, self._attempt(configuration)
            yield (
                position,
                after_attempts(result, attempt) if isinstance(result, Failure) else result,
            )

    def _attempt(self, configuration: Configuration) -> Result:
        seconds = self._failures.timeout_seconds
        if seconds is None:
            return evaluate_one(self._trainer, configuration)
        try:
            with time_limit(seconds):
                return evaluate_one(self._trainer, configuration)
        except TimeLimitError:
            if self._state is not None:
                # It was cut off anywhere, such as while it changed what it evaluates with.
                self._trainer.load_state(self._state)
            return too_slow(seconds)

    def train(
        self, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, TrainerState] | ExecutorEvent]:
        """Train nothing: what is left to the trainer itself, it does one after another."""
        yield from ()

    def close(self) -> None:
        """There is nothing to give back."""
