"""Evaluating configurations, here or on workers, so that one failure does not end a study."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

from qsearch._text import reason_of
from qsearch.execution.time_limit import TimeLimitError
from qsearch.monitoring.events import EventKind
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Trainer, TrainerState
from qsearch.space.configuration import Configuration

_MAX_FIGURE = 1e100
"""Nats, or units of the metric."""


@dataclass(frozen=True)
class Failure:
    """A configuration that could not be evaluated.

    Args:
        reason: One line for the user.
    """

    reason: str


@dataclass(frozen=True)
class ExecutorEvent:
    """Something worth telling that happened on the way to a result.

    Args:
        kind: None if nothing happened, and only time has passed.
        fields: Its figures.
        position: Of the configuration that it is about, if it is about one.
    """

    kind: EventKind | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    position: int | None = None


Result = Evaluation | Failure
ResultStream = Generator[tuple[int, Result] | ExecutorEvent]
"""Each position in a sequence of configurations with its result, once, and notes between them."""


class Executor(Protocol):
    """Evaluates configurations under one state of the trainer."""

    workers: int
    """How many evaluate at once."""

    def start(self) -> None:
        """Take what it needs, such as a cluster, unless it has it.

        Raises:
            InputError: If that cannot be had.
        """
        ...

    def use(self, state: TrainerState) -> None:
        """Evaluate under a state of the trainer from now on."""
        ...

    def evaluate(self, configurations: Sequence[Configuration]) -> ResultStream:
        """Evaluate configurations on the validation examples, yielding each result when known.

        A loss or metric that is not finite, any exception, and an evaluation that takes too long
        are that configuration's failure, after as many attempts as the study says. Where the
        caller stops, nothing more is begun.

        Args:
            configurations: What to evaluate.

        Yields:
            Positions with results, in the order in which these are known.
        """
        ...

    def train(
        self, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, TrainerState] | ExecutorEvent]:
        """Train each configuration separately (:class:`SupportsSeparateTraining`).

        Yields:
            Positions with what
            :meth:`~qsearch.plugins.capabilities.SupportsSeparateTraining.train_separately`
            returned.

        Raises:
            QsearchError: If a training fails otherwise than by diverging.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def evaluate_one(trainer: Trainer, configuration: Configuration) -> Result:
    """Evaluate a configuration; what goes wrong comes back as a failure."""

    def evaluate() -> Evaluation:
        (evaluation,) = trainer.evaluate([configuration], "validation")
        return evaluation

    return attempted(evaluate)


def attempted(evaluate: Callable[[], Evaluation]) -> Result:
    """Return what an evaluation comes to; what goes wrong comes back as a failure."""
    try:
        evaluation = evaluate()
        # A plugin may give figures of NumPy or PyTorch, which no database takes.
        evaluation = Evaluation(*(float(getattr(evaluation, f.name)) for f in fields(Evaluation)))
    except (KeyboardInterrupt, SystemExit, GeneratorExit, TimeLimitError):
        raise
    except BaseException as error:  # Some libraries' errors are no Exception: Rust's panics, say.
        return Failure(reason_of(error))
    figures = (evaluation.loss, evaluation.standard_error, evaluation.metric)
    # What is beyond has no square, which surrogate and database would need.
    if all(abs(figure) < _MAX_FIGURE for figure in figures):
        return evaluation
    return Failure(
        f"not finite: loss {evaluation.loss}, standard error"
        f" {evaluation.standard_error}, metric {evaluation.metric}"
    )


def too_slow(seconds: float) -> Failure:
    """Return the failure of an evaluation that took longer than it may."""
    return Failure(f"took longer than failures.timeout_seconds: {seconds:g}")


def after_attempts(failure: Failure, attempts: int) -> Failure:
    """Return a failure that says how often was tried, if that was more than once."""
    return Failure(f"{failure.reason} (attempt {attempts})") if attempts > 1 else failure
