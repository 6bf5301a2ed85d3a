"""Evaluations on the workers of a Ray cluster.

Each worker is an actor that holds the model. The trainer's state is put into Ray's object store
once a round; a task carries a configuration and brings back its figures. A worker that dies is
replaced, and what it was doing is done again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qsearch.monitoring.events import EventKind

# Nothing is told to others unless the user has asked for it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Workers are what the study waits for: they have its own priority.
os.environ.setdefault("RAY_worker_niceness", "0")
# The study tells of each worker that dies, in its own words.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker died or was killed|workers died")

import ray
from ray.exceptions import RayError, RayTaskError

from qsearch._text import in_one_line, reason_of
from qsearch.errors import InputError, QsearchError
from qsearch.execution.executor import (
    ExecutorEvent,
    Failure,
    ResultStream,
    after_attempts,
    too_slow,
)
from qsearch.execution.ray_worker import Answer, Worker, decode_state, encode_state, identity
from qsearch.execution.workers import Workers
from qsearch.plugins.capabilities import SupportsSeparateTraining
from qsearch.plugins.components import StudyComponents
from qsearch.plugins.protocols import TrainerState
from qsearch.space.configuration import Configuration

_MAX_LOSSES = 3
"""How many may die of one configuration, or of one worker and its replacements while they load."""

_TELL_AFTER = 30.0
"""Seconds after which it is told that no worker has started yet."""

_LOOK_EVERY = 5.0
"""Seconds after which the study is asked whether time is up, though no answer came."""

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")

_ANSWER_WITHIN = 10.0
"""Seconds that a cluster's address may take to answer."""

_Kind = Literal["use", "evaluate", "train"]


@dataclass
class _Slot:
    """One worker, and what it is doing.

    Args:
        actor: Ray's handle.
        state: Which state it has; 0 is none.
        position: Of the configuration that it works on; None while it loads.
        started: When it began with that.
        died: How often it died, one time after another, while it loaded the model.
    """

    actor: Any
    state: int = 0
    position: int | None = None
    started: float = 0.0
    died: int = 0


@dataclass
class _Work:
    """A sequence of configurations in work.

    Args:
        kind: What is done with them.
        configurations: All of them, as JSON.
        waiting: Positions that no worker has yet.
        attempts: How often each position was tried and failed.
        losses: How many workers died of each position.
        running: What each answer that is waited for will be of.
    """

    kind: _Kind
    configurations: list[str]
    waiting: deque[int]
    attempts: dict[int, int] = field(default_factory=dict)
    losses: dict[int, int] = field(default_factory=dict)
    running: dict[Any, _Slot] = field(default_factory=dict)


class RayExecutor:
    """Evaluates on workers, in whatever order they finish.

    Args:
        components: The study; its trainer takes in what workers have trained.
        workers: How many, where, and how large.
    """

    def __init__(self, components: StudyComponents, workers: Workers) -> None:
        self.workers = workers.count
        self._components = components
        self._failures = components.spec.failures
        self._options = {"num_cpus": workers.threads_each, "num_gpus": workers.gpus}
        self._arguments: tuple[str, str, int] | None = None
        self._state: list[Any] = []
        self._state_number = 0
        self._slots: list[_Slot] = []
        self._workers = workers
        self._actor_type = ray.remote(Worker).options(**self._options)

    def start(self) -> None:
        """Join the cluster, or start one, unless that is done."""
        if self._arguments is None:
            _connect(self._workers)
            threads = self._workers.threads_each
            known = json.dumps(identity(self._components))
            self._arguments = (self._components.spec.model_dump_json(), known, threads)

    def use(self, state: TrainerState) -> None:
        """Put a state into the object store; workers load it before they evaluate again."""
        self._state = [ray.put(encode_state(state))]
        self._state_number += 1

    def evaluate(self, configurations: Sequence[Configuration]) -> ResultStream:
        """Evaluate on all workers; see :meth:`qsearch.execution.executor.Executor.evaluate`."""
        for found in self._answers("evaluate", configurations):
            if isinstance(found, ExecutorEvent):
                yield found
                continue
            position, answer = found
            if isinstance(answer, Failure):
                yield position, answer
                continue
            if answer.trained is not None and isinstance(
                self._components.trainer, SupportsSeparateTraining
            ):
                self._components.trainer.adopt(decode_state(answer.trained))
            yield position, answer.result

    def train(
        self, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, TrainerState] | ExecutorEvent]:
        """Train on all workers; see :meth:`qsearch.execution.executor.Executor.train`."""
        for found in self._answers("train", configurations):
            if isinstance(found, ExecutorEvent):
                yield found
                continue
            position, answer = found
            if isinstance(answer, Failure):
                raise QsearchError(f"a training failed on the workers: {answer.reason}")
            else:
                assert answer.trained is not None
                yield position, decode_state(answer.trained)

    def close(self) -> None:
        """End the workers; a cluster of one's own, too."""
        for slot in self._slots:
            _kill(slot.actor)
        self._slots.clear()
        if self._arguments is not None:
            ray.shutdown()

    def _answers(
        self, kind: _Kind, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, Answer | Failure] | ExecutorEvent]:
        """Yield what workers answer, until all positions have an answer or failure."""
        work = _Work(
            kind,
            [configuration.to_json() for configuration in configurations],
            deque(range(len(configurations))),
        )
        quiet_since = time.monotonic()
        while len(self._slots) < min(self.workers, len(configurations)):
            self._slots.append(_Slot(self._new_actor()))
        try:
            while work.waiting or any(s.position is not None for s in work.running.values()):
                self._assign(work)
                ready, _ = ray.wait(list(work.running), num_returns=1, timeout=self._patience(work))
                for reference in ready:
                    quiet_since = float("inf")
                    yield from self._received(work, reference)
                yield from self._cut_off_slow(work)
                if any(slot.position is not None for slot in work.running.values()):
                    quiet_since = float("inf")
                if time.monotonic() - quiet_since > _TELL_AFTER:
                    quiet_since = float("inf")
                    yield ExecutorEvent(EventKind.WAITING_FOR_WORKERS)
                if not ready:
                    yield ExecutorEvent()
        finally:
            # The caller may have stopped: what is still running is of no use to anyone.
            for slot in work.running.values():
                if slot.position is not None:
                    self._replace(slot)

    def _assign(self, work: _Work) -> None:
        """Give each idle worker something to do."""
        busy = {id(slot) for slot in work.running.values()}
        for slot in self._slots:
            if id(slot) in busy or not work.waiting:
                continue
            if slot.state != self._state_number + 1:
                reference = slot.actor.use.remote(self._state)
                slot.position = None
            else:
                slot.position = work.waiting.popleft()
                chosen = work.configurations[slot.position]
                if work.kind == "evaluate":
                    reference = slot.actor.evaluate.remote(chosen)
                else:
                    reference = slot.actor.train.remote(chosen)
            slot.started = time.monotonic()
            work.running[reference] = slot

    def _received(
        self, work: _Work, reference: Any
    ) -> Generator[tuple[int, Answer | Failure] | ExecutorEvent]:
        """Yield what comes of one answer."""
        slot = work.running.pop(reference)
        try:
            answer: Answer = ray.get(reference)
        except RayError as error:
            yield from self._lost(work, slot, error)
            return
        if answer.error is not None:
            raise QsearchError(f"a worker cannot go on: {answer.error}")
        if slot.position is None:
            slot.state, slot.died = self._state_number + 1, 0
            return
        position, slot.position = slot.position, None
        if work.kind == "evaluate" and isinstance(failure := answer.result, Failure):
            yield from self._failed(work, position, failure)
        else:
            yield position, answer

    def _lost(
        self, work: _Work, slot: _Slot, error: RayError
    ) -> Generator[tuple[int, Failure] | ExecutorEvent]:
        """Replace a worker that died, and have its configuration done again."""
        reason, position = _reason(error), slot.position
        self._replace(slot)
        yield ExecutorEvent(EventKind.WORKER_LOST, {"reason": reason}, position)
        if position is None:
            slot.died += 1
            if slot.died >= _MAX_LOSSES:
                yield from self._given_up(slot, reason)
            return
        work.losses[position] = work.losses.get(position, 0) + 1
        if work.losses[position] < _MAX_LOSSES:
            work.waiting.appendleft(position)
        else:
            yield position, Failure(f"{_MAX_LOSSES} workers died of it, the last with: {reason}")

    def _given_up(self, slot: _Slot, reason: str) -> Generator[ExecutorEvent]:
        """Go on without a worker whose replacements died, too, while they loaded the model."""
        if not any(other.state for other in self._slots):
            raise QsearchError(
                f"{slot.died} workers died one after another while they loaded the model, the last"
                f" with: {reason}"
            )
        _kill(slot.actor)
        self._slots.remove(slot)
        yield ExecutorEvent(EventKind.WORKER_GIVEN_UP, {"reason": reason})

    def _failed(
        self, work: _Work, position: int, failure: Failure
    ) -> Generator[tuple[int, Failure] | ExecutorEvent]:
        """Have a configuration tried again, or yield that it failed."""
        attempts = work.attempts[position] = work.attempts.get(position, 0) + 1
        if attempts <= self._failures.retries:
            work.waiting.append(position)
            yield ExecutorEvent(
                EventKind.RETRY, {"attempt": attempts, "reason": failure.reason}, position
            )
        else:
            yield position, after_attempts(failure, attempts)

    def _cut_off_slow(self, work: _Work) -> Generator[tuple[int, Failure] | ExecutorEvent]:
        """End the workers whose evaluation takes too long."""
        limit = self._failures.timeout_seconds
        if limit is None or work.kind != "evaluate" or not work.running:
            return
        # Answers may have come while the study was busy with others.
        answered, _ = ray.wait(list(work.running), num_returns=len(work.running), timeout=0)
        for reference, slot in list(work.running.items()):
            position = None if reference in answered else slot.position
            if position is not None and time.monotonic() - slot.started > limit:
                del work.running[reference]
                self._replace(slot)
                yield from self._failed(work, position, too_slow(limit))

    def _patience(self, work: _Work) -> float:
        """Return for how many seconds to wait for an answer."""
        limit = self._failures.timeout_seconds
        starts = [slot.started for slot in work.running.values() if slot.position is not None]
        if limit is None or not starts:
            return _LOOK_EVERY
        return min(_LOOK_EVERY, max(0.05, min(starts) + limit - time.monotonic()))

    def _replace(self, slot: _Slot) -> None:
        _kill(slot.actor)  # It may live on: what it raised is not always its death.
        slot.actor = self._new_actor()
        slot.state, slot.position = 0, None

    def _new_actor(self) -> Any:
        assert self._arguments is not None, "start was not called"
        return self._actor_type.remote(*self._arguments)


def _require_listening(address: str) -> None:
    """Check that somebody answers at an address: Ray itself would try for minutes.

    Raises:
        OSError: If nobody does.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_WITHIN).close()


def _connect(workers: Workers) -> None:
    """Start a cluster on this machine, or join one."""
    if ray.is_initialized():
        raise InputError("this process uses Ray already; end that first, by ray.shutdown()")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if workers.address is None:
        options |= {
            "num_cpus": workers.count * workers.threads_each,
            "include_dashboard": False,
        }
    # Ray takes signals for itself; they shall go on to interrupt the study.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _require_listening(workers.address or "")
        # Without an address, never a cluster that happens to run here.
        ray.init(address=workers.address or "local", **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        where = f"--address {workers.address!r}" if workers.address else "Ray on this machine"
        raise InputError(f"{where}: cannot be used: {reason}") from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
    has = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    if workers.address is None and workers.gpus * workers.count > has:
        ray.shutdown()
        raise InputError(
            f"{workers.count} workers of {workers.gpus:g} GPUs each: this machine has {has:g}"
        )


def _reason(error: RayError) -> str:
    """Return in one line why a worker is lost."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if cause is not None:
        return reason_of(cause)
    lines = _ESCAPES.sub("", str(error)).strip().splitlines()
    return in_one_line(lines[-1] if isinstance(error, RayTaskError) else lines[0])


def _kill(actor: Any) -> None:
    with contextlib.suppress(RayError, ValueError):
        ray.kill(actor, no_restart=True)
