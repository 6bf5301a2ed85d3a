"""Workers that die or do not answer before they have loaded the model; Ray itself is a fake."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, repeat
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
from qsearch.plugins.evaluation import Evaluation
from qsearch.space.configuration import Configuration
from tests.engine.support import study_spec

SCORE = Evaluation(0.5, 0.1, 0.75, 0.01, 2.0)
LOADED, EVALUATED = Answer("{}"), Answer(json.dumps(asdict(SCORE)))
DIED = RayError("the node is gone")
LOST = ("worker lost", {"reason": "the node is gone"})


@dataclass(eq=False)
class Reference:
    """What Ray calls an answer that will come."""

    answer: Any


@dataclass
class FakeRay:
    """As much of Ray as an executor uses: each new worker loads as told, and evaluates at once.

    For some times, nothing is answered for 20 seconds.
    """

    loads: Iterable[Answer | RayError]
    silent: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self._loads = iter(self.loads)

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._worker))

    def _worker(self, *arguments: Any) -> Any:
        def method(answer: Any) -> Any:
            return SimpleNamespace(remote=lambda argument: Reference(answer))

        return SimpleNamespace(use=method(next(self._loads)), evaluate=method(EVALUATED))

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> Any:
        if self.silent:
            self.silent, self.now = self.silent - 1, self.now + 20
            return [], references
        return references[:1], references[1:]

    def get(self, reference: Reference) -> Any:
        if isinstance(reference.answer, RayError):
            raise reference.answer
        return reference.answer


Evaluate = Callable[..., tuple[dict[int, Any], list[Any]]]


@pytest.fixture
def evaluate(fake_plugins: None, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Evaluate four configurations on workers of a fake Ray; return results and events."""
    components = build_components(study_spec(trainer__blocks=1))
    names = [layer.name for layer in components.space.layers]
    configurations = [
        Configuration(dict.fromkeys(names, choice))
        for choice in components.space.choices.layer_configurations[:4]
    ]

    def run(workers: int, loads: Iterable[Any], silent: int = 0) -> Any:
        fake = FakeRay(loads, silent)
        monkeypatch.setattr(ray_executor, "ray", fake)
        monkeypatch.setattr(ray_executor, "time", SimpleNamespace(monotonic=lambda: fake.now))
        for name in ("connect", "kill"):
            monkeypatch.setattr(ray_executor, name, lambda _: None)
        executor = ray_executor.RayExecutor(components, Workers(workers))
        executor.start()
        items = list(executor.evaluate(configurations))
        events = [(i.kind, dict(i.fields)) for i in items if isinstance(i, ExecutorEvent)]
        return dict(item for item in items if not isinstance(item, ExecutorEvent)), events

    return run


def test_a_worker_that_dies_twice_while_it_loads_is_replaced(evaluate: Evaluate) -> None:
    results, events = evaluate(1, [DIED, DIED, LOADED])
    assert results == dict.fromkeys(range(4), SCORE)
    assert events == [LOST, LOST]


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


@pytest.mark.parametrize(
    ("silent", "kinds"), [(1, [None]), (3, [None, "waiting for workers", None, None])]
)
def test_workers_that_have_not_loaded_after_half_a_minute_are_waited_for_as_the_study_says_once(
    silent: int, kinds: Sequence[str | None], evaluate: Evaluate
) -> None:
    results, events = evaluate(1, [LOADED], silent)
    assert len(results) == 4
    assert [kind for kind, _ in events] == kinds
