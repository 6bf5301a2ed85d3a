"""Evaluating configurations, here or on workers, so that one failure does not end a study."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

from qsearch.capabilities import EvaluatesPart
from qsearch.configuration import Configuration
from qsearch.evaluation import Evaluation
from qsearch.failures import FailuresSpec
from qsearch.plugins import Trainer, TrainerState
from qsearch.reasons import reason_of
from qsearch.time_limit import TimeLimitError, require_main_thread, time_limit

_GREATEST_FIGURE = 1e100
"""Nats, or units of the metric."""


@dataclass(frozen=True)
class Failure:
    """A configuration that could not be evaluated.

    Args:
        reason: One line for the user.
    """

    reason: str


@dataclass(frozen=True)
class Note:
    """Something worth telling that happened on the way to a result.

    Args:
        kind: Kind of the event; "" if there is none, and only time has gone by.
        fields: Its figures.
        position: Of the configuration that it is about, if it is about one.
    """

    kind: str
    fields: Mapping[str, object] = field(default_factory=dict)
    position: int | None = None


Result = Evaluation | Failure
Outcomes = Generator[tuple[int, Result] | Note]
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

    def evaluate(self, configurations: Sequence[Configuration], one_in: int = 1) -> Outcomes:
        """Evaluate configurations on the validation examples, yielding each result when known.

        A loss or metric that is not finite, any exception, and an evaluation that takes too long
        are that configuration's failure, after as many attempts as the study says. Where the
        caller stops, nothing more is begun.

        Args:
            configurations: What to evaluate.
            one_in: One example in so many is taken; 1 takes all.

        Yields:
            Positions with results, in the order in which these are known.
        """
        ...

    def train(
        self, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, TrainerState] | Note]:
        """Train configurations apart (:class:`qsearch.capabilities.TrainsApart`).

        Yields:
            Positions with what :meth:`~qsearch.capabilities.TrainsApart.train_apart` returned.

        Raises:
            QsearchError: If a training fails otherwise than by diverging.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def evaluate_one(trainer: Trainer, configuration: Configuration, one_in: int = 1) -> Result:
    """Evaluate a configuration; what goes wrong comes back as a failure.

    Args:
        trainer: Evaluates.
        configuration: What to evaluate.
        one_in: One example in so many is taken, which needs a trainer with
            :class:`~qsearch.capabilities.EvaluatesPart`; 1 takes all.
    """

    def evaluate() -> Evaluation:
        if one_in == 1:
            (evaluation,) = trainer.evaluate([configuration], "validation")
            return evaluation
        assert isinstance(trainer, EvaluatesPart)
        (evaluation,) = trainer.evaluate_part([configuration], "validation", one_in)
        # A part may have one example, and so neither a standard error nor, perhaps, a metric.
        return replace(evaluation, standard_error=0.0, metric=0.0)

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
    if all(abs(figure) < _GREATEST_FIGURE for figure in figures):
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

    def evaluate(self, configurations: Sequence[Configuration], one_in: int = 1) -> Outcomes:
        """Evaluate in the order given; see :meth:`Executor.evaluate`."""
        for position, configuration in enumerate(configurations):
            attempt, result = 1, self._attempt(configuration, one_in)
            while isinstance(result, Failure) and attempt <= self._failures.retries:
                yield Note("retry", {"attempt": attempt, "reason": result.reason}, position)
                gc.collect()  # Where memory ran out, all of it shall be free again.
                attempt, result = attempt + 1, self._attempt(configuration, one_in)
            yield (
                position,
                after_attempts(result, attempt) if isinstance(result, Failure) else result,
            )

    def _attempt(self, configuration: Configuration, one_in: int) -> Result:
        seconds = self._failures.timeout_seconds
        if seconds is None:
            return evaluate_one(self._trainer, configuration, one_in)
        try:
            with time_limit(seconds):
                return evaluate_one(self._trainer, configuration, one_in)
        except TimeLimitError:
            if self._state is not None:
                # It was cut off anywhere, such as while it changed what it evaluates with.
                self._trainer.load_state(self._state)
            return too_slow(seconds)

    def train(
        self, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, TrainerState] | Note]:
        """Train nothing: what is left to the trainer itself, it does one after another."""
        yield from ()

    def close(self) -> None:
        """There is nothing to give back."""
