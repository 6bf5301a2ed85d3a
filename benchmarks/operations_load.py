"""What load a study holds: evaluations and trainings per hour by workers, and what a task carries.

The quickstart's model and texts, configurations that no one has evaluated before. Each executor
evaluates its own in turn, several times over, so that whatever else the machine does hits all.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.operations_kills import QUICKSTART
from benchmarks.recording import Benchmark
from qsearch.execution.executor import Executor, ExecutorEvent, ResultStream
from qsearch.execution.ray_executor import RayExecutor
from qsearch.execution.ray_worker import encode_state
from qsearch.execution.serial import SerialExecutor
from qsearch.execution.workers import Workers
from qsearch.experiment.loading import open_database, open_trials
from qsearch.experiment.node import QsearchNode
from qsearch.plugins.components import StudyComponents, build_components
from qsearch.plugins.evaluation import Evaluation, MetricValue
from qsearch.space.configuration import Configuration
from qsearch.space.sampling import sample_configurations
from qsearch.spec.study_spec import load_spec
from qsearch.storage.directory import prepare_directory

TURNS = 5
EACH_TURN = 8
SAVED = 200
QLORA = ("trainer.name=qlora", "trainer.first_steps=20", "trainer.later_learning_rate=null")
"""One adapter for each configuration, trained for 20 steps when it is evaluated."""


@dataclass(frozen=True)
class Contender:
    """One way to evaluate.

    Args:
        name: For the table.
        executor: Evaluates.
        threads: Threads of this process while it does.
    """

    name: str
    executor: Executor
    threads: int


def load(benchmark: Benchmark) -> None:
    """Measure evaluations and trainings per hour, and record them."""
    cores = torch.get_num_threads()
    for what, overrides, each in (("evaluations", (), EACH_TURN), ("trainings", QLORA, 2)):
        components = build_components(load_spec(QUICKSTART, overrides))
        components.trainer.quantization_error(
            components.space.choices.layer_configurations[:1]
        )  # Loads.
        state = components.trainer.state()
        own, many = Workers(1, threads=cores), Workers(cores, threads=1)
        workers = RayExecutor(components, many, Path())
        contenders = (
            Contender("this process, 1 thread", SerialExecutor(*_of(components)), 1),
            Contender(
                f"this process, {cores} threads", SerialExecutor(*_of(components)), own.threads_each
            ),
            Contender(f"{cores} workers, 1 thread each", workers, 1),
        )
        with closing(workers):
            workers.start()
            for contender in contenders:
                contender.executor.use(state)
            configurations = _new_configurations(components)
            # Workers load the model at their first task.
            list(workers.evaluate([next(configurations) for _ in range(cores)]))
            hours = _hours(contenders, configurations, each)
        rates = {name: each / median(times) for name, times in hours.items()}
        one, serial, both = rates.values()
        benchmark.row(
            what=what, **{f"{name} (per hour)": round(rate) for name, rate in rates.items()}
        )
        by_one, by_all = (
            f"{cores} workers over this process with {n}" for n in ("1 thread", "all")
        )
        benchmark.claim(f"{what} per hour, {by_one}", both / one, 0.85 * cores, "higher")
        benchmark.claim(f"{what} per hour, {by_all}", both / serial, 1.0, "higher")
        if what == "evaluations":
            _messages(benchmark, components, next(configurations))
            _saving(benchmark, components, configurations)


def _of(components: StudyComponents) -> tuple[Any, Any, Path]:
    return components.trainer, components.spec.failures, Path()


def _new_configurations(components: StudyComponents) -> Iterator[Configuration]:
    bits, generator = components.spec.search.bits, np.random.default_rng(0)
    assert bits is not None
    while True:
        for index in sample_configurations(components.space, 32, bits, generator):
            yield components.space.decode(index)


def _hours(
    contenders: Sequence[Contender], configurations: Iterator[Configuration], each: int
) -> dict[str, list[float]]:
    """Return the hours that each contender takes for ``each`` evaluations, turn by turn."""
    hours: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    threads = torch.get_num_threads()
    for turn in range(TURNS):
        order = np.random.default_rng(turn).permutation(len(contenders))
        for contender in (contenders[number] for number in order):
            chosen = [next(configurations) for _ in range(each)]
            torch.set_num_threads(contender.threads)
            hours[contender.name].append(_timed(lambda: contender.executor.evaluate(chosen)) / 3600)  # noqa: B023
    torch.set_num_threads(threads)
    return hours


def _timed(evaluate: Callable[[], ResultStream]) -> float:
    start = time.perf_counter()
    for found in evaluate():
        if not isinstance(found, ExecutorEvent) and not isinstance(found[1], Evaluation):
            raise RuntimeError(f"an evaluation failed: {found[1]}")
    return time.perf_counter() - start


def _messages(
    benchmark: Benchmark, components: StudyComponents, configuration: Configuration
) -> None:
    """Record how much a task carries, and how much each node fetches once a round."""
    benchmark.row(
        what="bytes",
        task=len(configuration.to_json()),
        state=len(encode_state(components.trainer.state())),
        model=sum(4 * layer.parameters for layer in components.space.layers),
    )


def _saving(
    benchmark: Benchmark, components: StudyComponents, configurations: Iterator[Configuration]
) -> None:
    """Record how long the driver takes to save one result among many."""
    space, metrics = components.space, [metric.name for metric in components.task.metrics]
    bits, seconds = components.spec.search.bits, []
    assert bits is not None
    node = QsearchNode(space, bits)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        prepare_directory(directory)
        with closing(open_database(directory, None)) as database:
            trials = open_trials(database, directory, "load", space, metrics, node)
            for number in range(SAVED):
                trials.attach(number, [("random", space.encode(next(configurations)))])
                start = time.perf_counter()
                trials.save_result(
                    number, 1, Evaluation(1.0, 0.1, {metrics[0]: MetricValue(0.5, 0.01)}, 1.0)
                )
                seconds.append(time.perf_counter() - start)
    late = median(seconds[-SAVED // 4 :])
    benchmark.row(what="saving", results=SAVED, **{"seconds each, at the end": round(late, 4)})
