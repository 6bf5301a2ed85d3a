"""Evaluations on the workers of a Ray cluster.

Each worker is an actor that holds the model. The trainer's state is put into Ray's object store
once a round; a task carries a configuration and brings back its metrics. A worker that dies is
replaced, and its configuration is evaluated again. Ray's own restarts and retries would do that
without saying so, and would count a model that cannot be loaded against a configuration.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# First, since it sets what Ray reads when it is imported.
from qsearch.execution.ray_cluster import connect, kill, reason_of_loss

# isort: split
import ray
from ray.exceptions import RayError

from qsearch.errors import QsearchError
from qsearch.execution.executor import (
    ExecutorEvent,
    Failure,
    ResultStream,
    after_attempts,
    too_slow,
)
from qsearch.execution.ray_worker import Answer, Worker, decode_state, encode_state, identity
from qsearch.execution.workers import Workers
from qsearch.monitoring.events import EventKind
from qsearch.plugins.capabilities import SupportsSeparateTraining
from qsearch.plugins.components import StudyComponents
from qsearch.plugins.protocols import TrainerState
from qsearch.space.configuration import Configuration

_MAX_LOSSES = 3
"""Workers that may die of one configuration, or one after another while they load the model."""

_NOTICE_AFTER = 30.0
"""Seconds after which the study reports that no worker has started yet."""

_MAX_WAIT = 5.0
"""Seconds after which the study is asked whether to stop, though no answer came."""

_MIN_WAIT = 0.05

_Kind = Literal["evaluate", "train"]


@dataclass
class _Slot:
    """One worker (Ray's actor), and what it is doing.

    Args:
        state: Number of the state that it has; 0 for none.
        position: Of the configuration that it works on; None while it loads.
        started: When it began with that.
        losses: How often it died, one time after another, while it loaded the model.
    """

    actor: Any
    state: int = 0
    position: int | None = None
    started: float = 0.0
    losses: int = 0


@dataclass
class _Work:
    """Configurations in work, as JSON; others are named by their position.

    Args:
        waiting: Positions that no worker has yet.
        attempts: How often each position failed.
        losses: How many workers died of each position.
        running: The worker that will give each answer.
    """

    kind: _Kind
    configurations: list[str]
    waiting: deque[int]
    attempts: Counter[int] = field(default_factory=Counter)
    losses: Counter[int] = field(default_factory=Counter)
    running: dict[Any, _Slot] = field(default_factory=dict)

    def busy(self) -> dict[Any, _Slot]:
        """Return the workers that work on a configuration, by their answer."""
        return {key: slot for key, slot in self.running.items() if slot.position is not None}


class RayExecutor:
    """Evaluates on workers, in whatever order they finish."""

    def __init__(self, components: StudyComponents, workers: Workers, directory: Path) -> None:
        self.workers = workers.count
        self._components = components
        self._failures = components.spec.failures
        self._workers = workers
        self._directory = directory.absolute()
        self._arguments: tuple[str, str, int, str] | None = None
        # In a list, see Worker.use; empty before the first training.
        self._state: list[Any] = []
        self._state_number = 1
        self._slots: list[_Slot] = []
        self._actor_type = ray.remote(Worker).options(
            num_cpus=workers.threads_each, num_gpus=workers.gpus
        )

    def start(self) -> None:
        """Join the cluster, or start one, unless that is done."""
        if self._arguments is None:
            connect(self._workers)
            spec = self._components.spec.model_dump_json()
            driver = json.dumps(identity(self._components))
            threads = self._workers.threads_each
            self._arguments = (spec, driver, threads, str(self._directory))

    def use(self, state: TrainerState) -> None:
        """Put a state into the object store; workers load it before they evaluate again."""
        self._state = [ray.put(encode_state(state))]
        self._state_number += 1

    def evaluate(self, configurations: Sequence[Configuration]) -> ResultStream:
        """Evaluate on all workers; see :meth:`qsearch.execution.executor.Executor.evaluate`."""
        trainer = self._components.trainer
        for item in self._answers("evaluate", configurations):
            if isinstance(item, ExecutorEvent):
                yield item
                continue
            position, answer = item
            if isinstance(answer, Failure):
                yield position, answer
                continue
            if answer.trained is not None and isinstance(trainer, SupportsSeparateTraining):
                trainer.adopt(decode_state(answer.trained))
            yield position, answer.result

    def train(
        self, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, TrainerState] | ExecutorEvent]:
        """Train on all workers; see :meth:`qsearch.execution.executor.Executor.train`."""
        for item in self._answers("train", configurations):
            if isinstance(item, ExecutorEvent):
                yield item
                continue
            position, answer = item
            if isinstance(answer, Failure):
                raise QsearchError(f"a training failed on the workers: {answer.reason}")
            assert answer.trained is not None
            yield position, decode_state(answer.trained)

    def close(self) -> None:
        """End the workers, and a cluster that was started for them."""
        for slot in self._slots:
            kill(slot.actor)
        self._slots.clear()
        if self._arguments is not None:
            ray.shutdown()

    def _answers(
        self, kind: _Kind, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, Answer | Failure] | ExecutorEvent]:
        """Yield the workers' answers, until all positions have an answer or failure."""
        texts = [configuration.to_json() for configuration in configurations]
        work = _Work(kind, texts, deque(range(len(texts))))
        while len(self._slots) < min(self.workers, len(texts)):
            self._slots.append(_Slot(self._new_actor()))
        notice_at = time.monotonic() + _NOTICE_AFTER
        try:
            while work.waiting or work.busy():
                self._assign(work)
                seconds = self._seconds_to_wait(work)
                ready, _ = ray.wait(list(work.running), num_returns=1, timeout=seconds)
                for reference in ready:
                    yield from self._received(work, reference)
                yield from self._end_slow(work)
                if ready or work.busy():
                    notice_at = float("inf")
                elif time.monotonic() > notice_at:
                    notice_at = float("inf")
                    yield ExecutorEvent(EventKind.WAITING_FOR_WORKERS)
                if not ready:
                    yield ExecutorEvent()
        finally:
            # The caller may have stopped, and then nobody needs what still runs.
            for slot in work.busy().values():
                self._replace(slot)

    def _assign(self, work: _Work) -> None:
        """Give each idle worker something to do."""
        occupied = {id(slot) for slot in work.running.values()}
        for slot in self._slots:
            if id(slot) in occupied or not work.waiting:
                continue
            if slot.state != self._state_number:
                slot.position = None
                reference = slot.actor.use.remote(self._state)
            else:
                slot.position = work.waiting.popleft()
                method = getattr(slot.actor, work.kind)
                reference = method.remote(work.configurations[slot.position])
            slot.started = time.monotonic()
            work.running[reference] = slot

    def _received(
        self, work: _Work, reference: Any
    ) -> Generator[tuple[int, Answer | Failure] | ExecutorEvent]:
        """Yield what follows from one answer."""
        slot = work.running.pop(reference)
        try:
            answer: Answer = ray.get(reference)
        except RayError as error:
            yield from self._lost(work, slot, reason_of_loss(error))
            return
        if answer.error is not None:
            raise QsearchError(f"a worker cannot continue: {answer.error}")
        if slot.position is None:
            slot.state, slot.losses = self._state_number, 0
            return
        position, slot.position = slot.position, None
        if work.kind == "evaluate" and isinstance(failure := answer.result, Failure):
            yield from self._failed(work, position, failure)
        else:
            yield position, answer

    def _lost(
        self, work: _Work, slot: _Slot, reason: str
    ) -> Generator[tuple[int, Failure] | ExecutorEvent]:
        """Replace a worker that died, and have its configuration evaluated again."""
        position = slot.position
        self._replace(slot)
        yield ExecutorEvent(EventKind.WORKER_LOST, {"reason": reason}, position)
        if position is not None:
            work.losses[position] += 1
            if work.losses[position] < _MAX_LOSSES:
                work.waiting.appendleft(position)
            else:
                last = f"{_MAX_LOSSES} workers died of it, the last with: {reason}"
                yield position, Failure(last)
            return
        slot.losses += 1
        if slot.losses < _MAX_LOSSES:
            return
        if not any(other.state for other in self._slots):
            raise QsearchError(
                f"{slot.losses} workers died one after another while they loaded the model, the"
                f" last with: {reason}"
            )
        # The study continues without it.
        kill(slot.actor)
        self._slots.remove(slot)
        yield ExecutorEvent(EventKind.WORKER_GIVEN_UP, {"reason": reason})

    def _failed(
        self, work: _Work, position: int, failure: Failure
    ) -> Generator[tuple[int, Failure] | ExecutorEvent]:
        """Have a configuration evaluated again, or yield that it failed."""
        work.attempts[position] += 1
        attempts = work.attempts[position]
        if attempts <= self._failures.retries:
            work.waiting.append(position)
            values = {"attempt": attempts, "reason": failure.reason}
            yield ExecutorEvent(EventKind.RETRY, values, position)
        else:
            yield position, after_attempts(failure, attempts)

    def _end_slow(self, work: _Work) -> Generator[tuple[int, Failure] | ExecutorEvent]:
        """End the workers whose evaluation takes too long."""
        limit = self._failures.timeout_seconds
        if limit is None or work.kind != "evaluate" or not work.running:
            return
        # Answers may have come while the study was busy with others.
        answered, _ = ray.wait(list(work.running), num_returns=len(work.running), timeout=0)
        for reference, slot in work.busy().items():
            if reference in answered or time.monotonic() - slot.started <= limit:
                continue
            position = slot.position
            assert position is not None
            del work.running[reference]
            self._replace(slot)
            yield from self._failed(work, position, too_slow(limit))

    def _seconds_to_wait(self, work: _Work) -> float:
        """Return for how many seconds to wait for an answer."""
        limit = self._failures.timeout_seconds
        starts = [slot.started for slot in work.busy().values()]
        if limit is None or not starts:
            return _MAX_WAIT
        return min(_MAX_WAIT, max(_MIN_WAIT, min(starts) + limit - time.monotonic()))

    def _replace(self, slot: _Slot) -> None:
        kill(slot.actor)  # It may still run: an error does not always mean that it died.
        slot.actor = self._new_actor()
        slot.state, slot.position = 0, None

    def _new_actor(self) -> Any:
        assert self._arguments is not None, "start was not called"
        return self._actor_type.remote(*self._arguments)
