"""Workers that die, refuse or do not answer before they have loaded; Ray itself is a fake."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("ray", reason="the extra ray is not installed")

from ray.exceptions import RayError

from qsearch.errors import QsearchError
from qsearch.execution import ray_executor
from qsearch.execution.executor import ExecutorEvent
from qsearch.execution.ray_worker import Answer
from qsearch.execution.workers import Workers
from qsearch.plugins.components import build_components
from qsearch.plugins.evaluation import Evaluation, MetricValue
from qsearch.space.configuration import Configuration
from tests.engine.fake_study import study_spec

pytestmark = pytest.mark.ray

SCORE = Evaluation(0.5, 0.1, {"accuracy": MetricValue(0.75, 0.01)}, 2.0)
LOADED, EVALUATED = Answer("{}"), Answer(json.dumps(asdict(SCORE)))
ALWAYS_EVALUATED = repeat(EVALUATED)
DIED = RayError("the node is gone")
LOST = ("worker lost", {"reason": "the node is gone"})


@dataclass
class FakeRay:
    """As much of Ray as an executor uses: workers answer as told, after silent times of 20 s."""

    loads: Iterator[Answer | RayError]
    silent: int = 0
    scores: Iterator[Answer | RayError] = ALWAYS_EVALUATED
    now: float = 0.0

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._worker))

    def _worker(self, *arguments: Any) -> Any:
        def method(answers: Iterator[Any]) -> Any:
            return SimpleNamespace(remote=lambda argument: lambda: next(answers))

        return SimpleNamespace(use=method(self.loads), evaluate=method(self.scores))

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> Any:
        if self.silent:
            self.silent, self.now = self.silent - 1, self.now + 20
            return [], references
        return references[:1], references[1:]

    def get(self, reference: Callable[[], Any]) -> Any:
        answer = reference()
        if isinstance(answer, RayError):
            raise answer
        return answer


Evaluate = Callable[..., tuple[dict[int, Any], list[Any]]]


@pytest.fixture
def evaluate(fake_plugins: None, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Evaluate four configurations on workers of a fake Ray; return results and events."""
    components = build_components(study_spec(trainer__blocks=1))

    def run(workers: int, loads: Iterable[Any], **options: Any) -> Any:
        fake = FakeRay(iter(loads), **options)
        monkeypatch.setattr(ray_executor, "ray", fake)
        monkeypatch.setattr(ray_executor, "time", SimpleNamespace(monotonic=lambda: fake.now))
        for name in ("connect", "kill"):
            monkeypatch.setattr(ray_executor, name, lambda _: None)
        executor = ray_executor.RayExecutor(components, Workers(workers), Path())
        executor.start()
        items = list(executor.evaluate(4 * [Configuration({})]))
        events = [(i.kind, dict(i.fields)) for i in items if isinstance(i, ExecutorEvent)]
        return dict(item for item in items if not isinstance(item, ExecutorEvent)), events

    return run


def test_a_worker_that_dies_twice_while_it_loads_is_replaced_each_time(evaluate: Evaluate) -> None:
    scores = chain([DIED], ALWAYS_EVALUATED)
    results, events = evaluate(1, 2 * [DIED, DIED, LOADED], scores=scores)
    assert results == dict.fromkeys(range(4), SCORE)
    assert events == 5 * [LOST]


def test_a_worker_that_dies_three_times_is_given_up_if_others_work(evaluate: Evaluate) -> None:
    results, events = evaluate(2, chain([LOADED], repeat(DIED)))
    assert results == dict.fromkeys(range(4), SCORE)
    assert events == [*3 * [LOST], ("worker given up", {"reason": "the node is gone"})]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_study_stops_if_workers_die_three_times_and_none_works(
    workers: int, evaluate: Evaluate
) -> None:
    said = "^3 workers died one after another while they loaded .* with: the node is gone$"
    with pytest.raises(QsearchError, match=said) as caught:
        evaluate(workers, repeat(DIED))
    assert type(caught.value) is QsearchError, "exit code 1"


def test_a_worker_that_cannot_load_the_study_ends_it(evaluate: Evaluate) -> None:
    refusal = Answer(json.dumps({"error": "a node differs"}))
    with pytest.raises(QsearchError, match=r"worker cannot continue: a node differs$") as caught:
        evaluate(1, [refusal])
    assert type(caught.value) is QsearchError, "exit code 1"


@pytest.mark.parametrize(
    ("silent", "kinds"), [(1, [None]), (3, [None, "waiting for workers", None, None])]
)
def test_workers_that_have_not_loaded_after_half_a_minute_are_waited_for_as_the_study_says_once(
    silent: int, kinds: list[str | None], evaluate: Evaluate
) -> None:
    results, events = evaluate(1, [LOADED], silent=silent)
    assert len(results) == 4
    assert [kind for kind, _ in events] == kinds
