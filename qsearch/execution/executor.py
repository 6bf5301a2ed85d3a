"""Evaluating configurations, here or on workers, so that one failure does not end a study."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qsearch._text import reason_of
from qsearch.execution.time_limit import TimeLimitError, time_limit
from qsearch.monitoring.events import EventKind
from qsearch.plugins.evaluation import Evaluation, MetricValue
from qsearch.plugins.protocols import Trainer, TrainerState
from qsearch.space.configuration import Configuration

MAX_VALUE = 1e100
"""Nats, or units of the metric: beyond is no square, which surrogate and database need."""


@dataclass(frozen=True)
class Failure:
    """A configuration that could not be evaluated, with one line for the user that says why."""

    reason: str


@dataclass(frozen=True)
class ExecutorEvent:
    """An event on the way to a result, about the configuration at a position if it has one.

    Without a kind, only time has passed.
    """

    kind: EventKind | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    position: int | None = None


Result = Evaluation | Failure
ResultStream = Generator[tuple[int, Result] | ExecutorEvent]
"""Each position in a sequence of configurations with its result, once, and events between them."""


class Executor(Protocol):
    """Evaluates configurations under one state of the trainer."""

    workers: int
    """How many evaluate at once."""

    def start(self) -> None:
        """Join or start what it needs, such as a cluster, unless it has it."""
        ...

    def use(self, state: TrainerState) -> None:
        """Evaluate under a state of the trainer from now on."""
        ...

    def evaluate(self, configurations: Sequence[Configuration]) -> ResultStream:
        """Evaluate configurations on the validation examples, yielding each result when known.

        A loss or metric that is not finite, any exception, and an evaluation that takes too long
        are that configuration's failure, after as many attempts as the study says. Where the
        caller stops, no further evaluation starts.
        """
        ...

    def train(
        self, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, TrainerState] | ExecutorEvent]:
        """Train configurations by :meth:`SupportsSeparateTraining.train_separately`.

        Yields positions with trained states. A training that fails otherwise than by diverging is
        a QsearchError.
        """
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


def evaluate_one(
    trainer: Trainer,
    configuration: Configuration,
    seconds: float | None = None,
    restore: Callable[[], None] = lambda: None,
) -> Result:
    """Evaluate a configuration, as :func:`attempted` does."""

    def evaluate() -> Evaluation:
        (evaluation,) = trainer.evaluate([configuration], "validation")
        return evaluation

    return attempted(evaluate, seconds, restore)


def attempted(
    evaluate: Callable[[], Evaluation], seconds: float | None, restore: Callable[[], None]
) -> Result:
    """Return the result of an evaluation; an error becomes a failure, and so does a time limit.

    That interrupts the evaluation anywhere, and may leave a half-changed model, which ``restore``
    loads again.
    """
    if seconds is None:
        return _result(evaluate)
    try:
        with time_limit(seconds):
            return _result(evaluate)
    except TimeLimitError:
        restore()
        return too_slow(seconds)


def _result(evaluate: Callable[[], Evaluation]) -> Result:
    try:
        evaluation = evaluate()
        # A plugin may give numbers of NumPy or PyTorch, which no database takes.
        evaluation = Evaluation(
            float(evaluation.loss),
            float(evaluation.standard_error),
            {
                name: MetricValue(float(metric.value), float(metric.standard_error))
                for name, metric in evaluation.metrics.items()
            },
            float(evaluation.seconds),
            evaluation.examples,
        )
    except (KeyboardInterrupt, SystemExit, GeneratorExit, TimeLimitError):
        raise
    except BaseException as error:  # Errors of some libraries, as in Rust, are not an Exception.
        return Failure(reason_of(error))
    values = {"loss": evaluation.loss, "standard error": evaluation.standard_error}
    values |= {name: metric.value for name, metric in evaluation.metrics.items()}
    if all(abs(value) < MAX_VALUE for value in values.values()):
        return evaluation
    return Failure("not finite: " + ", ".join(f"{name} {value}" for name, value in values.items()))


def too_slow(seconds: float) -> Failure:
    """Return the failure of an evaluation that took longer than it may."""
    return Failure(f"took longer than failures.timeout_seconds: {seconds:g}")


def after_attempts(failure: Failure, attempts: int) -> Failure:
    """Return a failure that says how many attempts there were, if more than one."""
    return Failure(f"{failure.reason} (attempt {attempts})") if attempts > 1 else failure
