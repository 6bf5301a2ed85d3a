"""Evaluations on the workers of a Ray cluster.

Each worker is an actor that holds the model. The trainer's state is put into Ray's object store
once a round; a task carries a configuration and brings back its figures. A worker that dies is
replaced, and what it was doing is done again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# Nothing is told to others unless the user has asked for it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Workers are what the study waits for: they have its own priority.
os.environ.setdefault("RAY_worker_niceness", "0")
# The study tells of each worker that dies, in its own words.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker died or was killed|workers died")

import ray
from ray.exceptions import RayError

from qsearch.capabilities import TrainsApart
from qsearch.configuration import Configuration
from qsearch.errors import InputError, QsearchError
from qsearch.executors import Failure, Note, Outcomes, after_attempts, too_slow
from qsearch.plugins import Trainer, TrainerState
from qsearch.ray_worker import Answer, Worker, decode_state, encode_state
from qsearch.spec import StudySpec
from qsearch.workers import Workers

_MOST_LOSSES = 3
"""Workers that may die of one configuration, or one after another while they load the model."""

_TELL_AFTER = 30.0
"""Seconds after which it is told that no worker has started yet."""

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
    """

    actor: Any
    state: int = 0
    position: int | None = None
    started: float = 0.0


@dataclass
class _Work:
    """A sequence of configurations in work.

    Args:
        kind: What is done with them.
        configurations: All of them, as JSON.
        one_in: One example in so many is taken.
        waiting: Positions that no worker has yet.
        attempts: How often each position was tried and failed.
        losses: How many workers died of each position.
        running: What each answer that is waited for will be of.
    """

    kind: _Kind
    configurations: list[str]
    one_in: int
    waiting: deque[int]
    attempts: dict[int, int] = field(default_factory=dict)
    losses: dict[int, int] = field(default_factory=dict)
    running: dict[Any, _Slot] = field(default_factory=dict)


class RayExecutor:
    """Evaluates on workers, in whatever order they finish.

    Args:
        spec: The study, resolved.
        trainer: The study's own trainer, which takes in what workers have trained.
        workers: How many, where, and how large.
    """

    def __init__(self, spec: StudySpec, trainer: Trainer, workers: Workers) -> None:
        self.workers = workers.count
        self._failures = spec.failures
        self._trainer = trainer
        self._options = {"num_cpus": workers.threads_each, "num_gpus": workers.gpus}
        self._arguments = (spec.model_dump_json(), workers.threads_each)
        self._state: list[Any] = []
        self._state_number = 0
        self._slots: list[_Slot] = []
        self._died_loading = 0
        self._workers = workers
        self._started = False
        self._actor_type = ray.remote(Worker).options(**self._options)

    def start(self) -> None:
        """Join the cluster, or start one, unless that is done."""
        if not self._started:
            _connect(self._workers)
            self._started = True

    def use(self, state: TrainerState) -> None:
        """Put a state into the object store; workers load it before they evaluate again."""
        self._state = [ray.put(encode_state(state))]
        self._state_number += 1

    def evaluate(self, configurations: Sequence[Configuration], one_in: int = 1) -> Outcomes:
        """Evaluate on all workers; see :meth:`qsearch.executors.Executor.evaluate`."""
        for found in self._answers("evaluate", configurations, one_in):
            if isinstance(found, Note):
                yield found
                continue
            position, answer = found
            if isinstance(answer, Failure):
                yield position, answer
                continue
            if answer.trained is not None and isinstance(self._trainer, TrainsApart):
                self._trainer.adopt(decode_state(answer.trained))
            yield position, answer.result

    def train(
        self, configurations: Sequence[Configuration]
    ) -> Generator[tuple[int, TrainerState] | Note]:
        """Train on all workers; see :meth:`qsearch.executors.Executor.train`."""
        for found in self._answers("train", configurations, 1):
            if isinstance(found, Note):
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
        if self._started:
            ray.shutdown()

    def _answers(
        self, kind: _Kind, configurations: Sequence[Configuration], one_in: int
    ) -> Generator[tuple[int, Answer | Failure] | Note]:
        """Yield what workers answer, until all positions have an answer or failure."""
        work = _Work(
            kind,
            [configuration.to_json() for configuration in configurations],
            one_in,
            deque(range(len(configurations))),
        )
        quiet_since = time.monotonic()
        while len(self._slots) < min(self.workers, len(configurations)):
            self._slots.append(_Slot(self._actor_type.remote(*self._arguments)))
        try:
            while work.waiting or any(s.position is not None for s in work.running.values()):
                self._assign(work)
                ready, _ = ray.wait(list(work.running), num_returns=1, timeout=self._patience(work))
                for reference in ready:
                    quiet_since = float("inf")
                    yield from self._received(work, reference)
                yield from self._cut_off_slow(work)
                if time.monotonic() - quiet_since > _TELL_AFTER:
                    quiet_since = float("inf")
                    yield Note("waiting for workers")
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
                    reference = slot.actor.evaluate.remote(chosen, work.one_in)
                else:
                    reference = slot.actor.train.remote(chosen)
            slot.started = time.monotonic()
            work.running[reference] = slot

    def _received(
        self, work: _Work, reference: Any
    ) -> Generator[tuple[int, Answer | Failure] | Note]:
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
            slot.state = self._state_number + 1
            self._died_loading = 0
            return
        position, slot.position = slot.position, None
        if work.kind == "evaluate" and isinstance(failure := answer.result, Failure):
            yield from self._failed(work, position, failure)
        else:
            yield position, answer

    def _lost(
        self, work: _Work, slot: _Slot, error: RayError
    ) -> Generator[tuple[int, Failure] | Note]:
        """Replace a worker that died, and have its configuration done again."""
        reason = str(error).strip().splitlines()[0]
        position = slot.position
        self._replace(slot)
        yield Note("worker lost", {"reason": reason}, position)
        if position is None:
            self._died_loading += 1
            if self._died_loading >= _MOST_LOSSES:
                raise QsearchError(
                    f"{self._died_loading} workers died one after another while they loaded the"
                    f" model, the last with: {reason}"
                )
            return
        work.losses[position] = work.losses.get(position, 0) + 1
        if work.losses[position] < _MOST_LOSSES:
            work.waiting.appendleft(position)
        else:
            yield position, Failure(f"{_MOST_LOSSES} workers died of it, the last with: {reason}")

    def _failed(
        self, work: _Work, position: int, failure: Failure
    ) -> Generator[tuple[int, Failure] | Note]:
        """Have a configuration tried again, or yield that it failed."""
        attempts = work.attempts[position] = work.attempts.get(position, 0) + 1
        if attempts <= self._failures.retries:
            work.waiting.append(position)
            yield Note("retry", {"attempt": attempts, "reason": failure.reason}, position)
        else:
            yield position, after_attempts(failure, attempts)

    def _cut_off_slow(self, work: _Work) -> Generator[tuple[int, Failure] | Note]:
        """End the workers whose evaluation takes too long."""
        limit = self._failures.timeout_seconds
        if limit is None or work.kind != "evaluate":
            return
        for reference, slot in list(work.running.items()):
            position = slot.position
            if position is not None and time.monotonic() - slot.started > limit:
                del work.running[reference]
                self._replace(slot)
                yield from self._failed(work, position, too_slow(limit))

    def _patience(self, work: _Work) -> float:
        """Return for how many seconds to wait for an answer."""
        limit = self._failures.timeout_seconds
        starts = [slot.started for slot in work.running.values() if slot.position is not None]
        if limit is None or not starts:
            return _TELL_AFTER
        return min(_TELL_AFTER, max(0.05, min(starts) + limit - time.monotonic()))

    def _replace(self, slot: _Slot) -> None:
        _kill(slot.actor)  # It may live on: what it raised is not always its death.
        slot.actor = self._actor_type.remote(*self._arguments)
        slot.state, slot.position = 0, None


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
        ray.init(address=workers.address, **options)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        where = f"--address {workers.address!r}" if workers.address else "Ray on this machine"
        raise InputError(f"{where}: cannot be used: {reason}") from error


def _kill(actor: Any) -> None:
    with contextlib.suppress(RayError, ValueError):
        ray.kill(actor, no_restart=True)
