"""Evaluating one configuration, and several after one another: failures, retries, time limits."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from qsearch.errors import InputError
from qsearch.execution.executor import ExecutorEvent, Failure, ResultStream
from qsearch.execution.serial import SerialExecutor
from qsearch.execution.time_limit import TimeLimitError, time_limit
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.plugins.evaluation import Evaluation, MetricValue
from qsearch.plugins.protocols import Split
from qsearch.space.configuration import Configuration
from qsearch.spec.failures import FailuresSpec
from qsearch.study.trial_evaluation import evaluated_trials
from tests.engine.fake_study import study_spec


@pytest.fixture
def components(fake_plugins: None) -> StudyComponents:
    return build_components(study_spec(trainer__blocks=1))


@pytest.fixture
def configurations(components: StudyComponents) -> list[Configuration]:
    """Three configurations, all layers alike: 2, 3 and 4 bits."""
    choices = components.space.choices.layer_configurations
    names = [layer.name for layer in components.space.layers]
    return [Configuration(dict.fromkeys(names, choices[number])) for number in (0, 2, 4)]


class Slow:
    """The step of an evaluation that never ends by itself: its time is over at once."""


class Scripted:
    """A trainer whose evaluations follow steps, one after another."""

    def __init__(self, trainer: Any, *steps: Any) -> None:
        self.trainer = trainer
        self.steps = list(steps)
        self.loaded: list[Any] = []

    def evaluate(self, configurations: Sequence[Configuration], split: Split) -> list[Evaluation]:
        step = self.steps.pop(0) if self.steps else None
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, Slow):
            signal.raise_signal(signal.SIGALRM)
        evaluated: list[Evaluation] = self.trainer.evaluate(configurations, split)
        return step(evaluated) if callable(step) else evaluated

    def load_state(self, state: Any) -> None:
        self.loaded.append(state)


Outcomes = Callable[..., tuple[dict[int, Any], list[ExecutorEvent], Scripted]]


@pytest.fixture
def outcomes(components: StudyComponents, configurations: list[Configuration]) -> Outcomes:
    """Evaluate the configurations by a trainer of some steps; return results, events, trainer."""

    def evaluate(*steps: Any, count: int = 3, **limits: Any) -> Any:
        trainer = Scripted(components.trainer, *steps)
        executor = SerialExecutor(trainer, FailuresSpec(**limits), Path())  # type: ignore[arg-type]
        executor.use("the state")  # type: ignore[arg-type]
        items = list(executor.evaluate(configurations[:count]))
        events = [item for item in items if isinstance(item, ExecutorEvent)]
        return dict(item for item in items if not isinstance(item, ExecutorEvent)), events, trainer

    return evaluate


def test_each_configuration_gets_its_result_in_order(
    components: StudyComponents, configurations: list[Configuration], outcomes: Outcomes
) -> None:
    results, events, _ = outcomes()
    assert list(results) == [0, 1, 2]
    assert list(results.values()) == list(components.trainer.evaluate(configurations, "validation"))
    assert events == []


class Panic(BaseException):
    """An error that is not an ``Exception``, as libraries in Rust raise."""


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (MemoryError(), "MemoryError:"),
        (Panic("index out of range"), "Panic: index out of range"),
        (lambda _: [None], "AttributeError: "),
        (lambda _: [], "ValueError: "),
        (lambda rows: [replace(rows[0], loss=None)], "TypeError: "),
        (lambda rows: [replace(rows[0], loss=float("nan"))], "not finite: loss nan"),
        (lambda rows: [replace(rows[0], loss=1e300)], "not finite: loss 1e+300"),
        (
            lambda rows: [replace(rows[0], metrics={"accuracy": MetricValue(-1e300)})],
            "not finite: loss ",
        ),
    ],
)
def test_whatever_a_trainer_does_is_that_configurations_failure(
    step: Any, reason: str, outcomes: Outcomes
) -> None:
    results, _, _ = outcomes(None, step)
    assert results[1].reason.startswith(reason)
    assert isinstance(results[0], Evaluation)
    assert isinstance(results[2], Evaluation)


@pytest.mark.parametrize("kind", [np.float32, torch.tensor])
def test_numbers_of_any_library_become_plain_ones(kind: Any, outcomes: Outcomes) -> None:
    results, _, _ = outcomes(lambda rows: [replace(rows[0], loss=kind(0.5))])
    assert results[0].loss == 0.5
    assert type(results[0].loss) is float


def test_an_interrupt_is_not_a_failure(outcomes: Outcomes) -> None:
    with pytest.raises(KeyboardInterrupt):
        outcomes(KeyboardInterrupt(), retries=3)


def test_a_failed_evaluation_is_tried_again_as_often_as_the_study_says(outcomes: Outcomes) -> None:
    failing = [ValueError("first"), Slow(), ValueError("third"), ValueError("fourth")]
    limits = {"count": 1, "retries": 3, "timeout_seconds": 3600}
    results, events, _ = outcomes(*failing, **limits)
    assert results[0] == Failure("ValueError: fourth (attempt 4)")
    slow = "took longer than failures.timeout_seconds: 3600"
    reasons = ["ValueError: first", slow, "ValueError: third"]
    assert [(event.position, event.kind, dict(event.fields)) for event in events] == [
        (0, "retry", {"attempt": attempt, "reason": reason})
        for attempt, reason in enumerate(reasons, start=1)
    ]
    assert isinstance(outcomes(*failing[:3], **limits)[0][0], Evaluation)


def test_nothing_more_is_evaluated_once_the_caller_stops(
    components: StudyComponents, configurations: list[Configuration]
) -> None:
    trainer = Scripted(components.trainer, *[None] * 3)
    stream = SerialExecutor(trainer, FailuresSpec(), Path()).evaluate(configurations)  # type: ignore[arg-type]
    next(stream)
    stream.close()
    assert len(trainer.steps) == 2


def test_an_evaluation_that_takes_too_long_is_ended_and_fails(outcomes: Outcomes) -> None:
    results, _, trainer = outcomes(Slow(), timeout_seconds=3600)
    assert results[0] == Failure("took longer than failures.timeout_seconds: 3600")
    assert isinstance(results[1], Evaluation)
    assert trainer.loaded == ["the state"], "the model may be half changed"


def test_a_time_limit_cannot_be_caught_as_an_exception() -> None:
    with pytest.raises(TimeLimitError), time_limit(3600):  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGALRM)
        except Exception:
            pytest.fail("a handler in the work caught the limit")


def test_a_time_limit_leaves_no_timer_and_no_handler_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(60):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_study_with_a_time_limit_is_refused_in_a_thread_before_it_begins() -> None:
    executor = SerialExecutor(None, FailuresSpec(timeout_seconds=1), Path())  # type: ignore[arg-type]
    executor.start()
    with (
        ThreadPoolExecutor() as threads,
        pytest.raises(InputError, match=r"failures\.timeout_seconds"),
    ):
        threads.submit(executor.start).result()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_work_that_swallows_the_limit_is_interrupted_again() -> None:
    class Swallows:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGALRM)

    reached = []
    with pytest.raises(TimeLimitError), time_limit(3600):  # noqa: PT012
        swallows = Swallows()
        del swallows  # Python ignores what is raised while an object is deleted.
        reached.append(signal.getitimer(signal.ITIMER_REAL)[1])
        signal.raise_signal(signal.SIGALRM)
    assert reached == [1.0], "the timer repeats"


def test_the_study_may_stop_while_no_worker_answers() -> None:
    """An executor that waits yields events without a kind, which are not emitted."""
    asked = iter([False, False, True])
    emitted: list[str] = []

    class Waiting:
        def evaluate(self, configurations: object) -> ResultStream:
            while True:
                yield ExecutorEvent()

    study = SimpleNamespace(executor=Waiting(), emit=lambda kind, *_, **__: emitted.append(kind))
    stream = evaluated_trials(study, [], lambda: next(asked))  # type: ignore[arg-type]
    assert list(stream) == []
    assert emitted == []
