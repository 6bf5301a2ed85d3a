"""Studies whose configurations workers of a Ray cluster evaluate."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import psutil
import pytest
from pandas.testing import assert_frame_equal

from qsearch.errors import InputError
from qsearch.execution.ray_worker import Worker, encode_state, identity
from qsearch.execution.workers import Workers
from qsearch.monitoring.events import Event
from qsearch.plugins.components import build_components
from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.paths import reference_path
from qsearch.storage.study_record import read_study
from qsearch.study.run import run_spec
from tests.engine.fake_study import (
    FAULTS,
    FIXTURES,
    SMALL,
    Stop,
    command_environment,
    events_of,
    results,
    stopping_at,
    study_spec,
    uniform,
    write_study_yaml,
)

if not os.environ.get("CI"):
    pytest.importorskip("ray", reason="the extra ray is not installed")

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[3]
HOURS = 3600.0
"""A time limit that no evaluation reaches."""


@pytest.fixture(scope="module", autouse=True)
def plugins_of_workers() -> Iterator[None]:
    """Workers are processes of their own; they find the fake plugins by this variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(FIXTURES), str(ROOT)]))
        yield


@pytest.fixture(scope="module")
def nodes(plugins_of_workers: None) -> Iterator[Any]:
    """A cluster of this machine whose head has no workers."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield started
    started.shutdown()


@pytest.fixture
def cluster(nodes: Any) -> Any:
    """A cluster of a head without workers and two other nodes, of one worker each."""
    while len(nodes.worker_nodes) < 2:
        nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    return nodes


@pytest.fixture
def workers(cluster: Any) -> Workers:
    """The cluster's two workers."""
    return Workers(count=2, address=cluster.address, threads=1)


def test_a_worker_that_dies_is_replaced_and_a_study_resumes_without_workers(
    workers: Workers, uninterrupted: pd.DataFrame, tmp_path: Path
) -> None:
    """Failures on workers are those of a serial run, too."""
    faults = [*FAULTS, {"kind": "die", "once": str(tmp_path / "died")}]
    spec = study_spec(**SMALL, trainer__faults=faults)
    with pytest.raises(Stop):
        run_spec(spec, tmp_path / "run", workers=workers, observer=stopping_at("round finished"))
    assert len(events_of(tmp_path / "run", "worker lost")) == 1
    run_spec(spec, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)


def test_a_configuration_that_kills_its_workers_fails_alone(
    workers: Workers, tmp_path: Path
) -> None:
    faults = [{"kind": "die", "layer": "block.0.key", "bits": 8}]
    spec = study_spec(**SMALL, trainer__faults=faults, search__rounds=1)
    run_spec(spec, tmp_path / "run", workers=workers)
    rows = read_study(tmp_path / "run").trials
    deadly = rows["configuration"].map(lambda text: json.loads(text)["block.0.key"]["bits"] == 8)
    assert deadly.any()
    assert (rows["status"] == "failed").equals(deadly)
    assert rows.loc[deadly, "reason"].str.startswith("3 workers died of it").all()


def test_an_evaluation_that_takes_too_long_is_ended_and_evaluated_again(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study in a thread can do so, too. Time passes while the study waits for it."""
    from qsearch.execution import ray_executor

    marker, now, wait = tmp_path / "slow", [0.0], ray_executor.ray.wait

    def wait_for_hours(references: list[Any], num_returns: int, timeout: float) -> Any:
        if marker.exists():
            now[0] = 2 * HOURS
        return wait(references, num_returns=num_returns, timeout=min(timeout, 0.1))

    monkeypatch.setattr(ray_executor, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(ray_executor.ray, "wait", wait_for_hours)
    spec = study_spec(
        **SMALL,
        search__rounds=1,
        trainer__faults=[{"kind": "slow", "once": str(marker)}],
        failures__timeout_seconds=HOURS,
        failures__retries=1,
    )
    # Another's evaluation, begun before time passed, would be too slow as well.
    one = {"workers": replace(workers, count=1)}
    thread = threading.Thread(
        target=run_spec, args=(spec, tmp_path / "run"), kwargs=one, daemon=True
    )
    thread.start()
    thread.join(500)
    assert not thread.is_alive()
    assert (results(tmp_path / "run")["status"] == "completed").all()
    (retry,) = events_of(tmp_path / "run", "retry")
    assert retry["reason"] == "took longer than failures.timeout_seconds: 3600"


def test_answers_that_came_while_the_study_was_busy_are_not_too_late(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a database is away: results wait, and are no slower for it."""
    from qsearch.execution import ray_executor

    now = [0.0]
    wait = ray_executor.ray.wait

    def answered(references: list[Any], num_returns: int, timeout: float) -> Any:
        # What is asked for without waiting has come while the study was busy.
        return wait(references, num_returns=num_returns, timeout=timeout or 500)

    def be_busy(event: Event) -> None:
        if event.kind == "evaluated":
            now[0] += 2 * HOURS

    monkeypatch.setattr(ray_executor, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(ray_executor.ray, "wait", answered)
    spec = study_spec(**SMALL, search__rounds=1, failures__timeout_seconds=HOURS)
    run_spec(spec, tmp_path / "run", observer=be_busy, workers=workers)
    assert (results(tmp_path / "run")["status"] == "completed").all()


def test_a_cluster_that_cannot_be_reached_is_one_message(tmp_path: Path) -> None:
    away = Workers(count=2, address="127.0.0.1:1")
    with pytest.raises(InputError, match=r"--address '127\.0\.0\.1:1': cannot be used"):
        run_spec(study_spec(), tmp_path / "run", workers=away)


@pytest.mark.parametrize("name", [None, "version of torch", "SHA-256 of validation"])
def test_a_worker_loads_a_study_with_its_drivers_versions_and_data_alone(
    name: str | None, fake_plugins: None
) -> None:
    components = build_components(study_spec())
    driver = identity(components) | ({name: "another"} if name else {})
    worker = Worker(components.spec.model_dump_json(), json.dumps(driver), 1, "")
    error = worker.use().error
    assert (error is None) == (name is None)
    assert name is None or f"{name}: another, there" in str(error)


def test_a_worker_makes_ready_what_evaluations_are_compared_with(
    fake_plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.get", lambda reference: reference)
    spec = study_spec(task={"name": "diverging"}, trainer__name="comparing")
    components = build_components(spec)
    (tmp_path / "state").mkdir()
    worker = Worker(
        components.spec.model_dump_json(), json.dumps(identity(components)), 1, str(tmp_path)
    )
    assert worker.use([encode_state(components.trainer.state())]).error is None
    assert reference_path(tmp_path, "validation").is_file()
    configuration = components.space.decode(uniform(components.space, 4.0))
    result = worker.evaluate(configuration.to_json()).result
    assert isinstance(result, Evaluation)
    assert result.metrics["kl"].value == pytest.approx(1 / result.loss)
    assert result.examples is not None
    assert result.examples.metrics == {"accuracy": (0.0, 1.0)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, "workers: 0 are too few"),
        ({"threads": 0}, "threads of a worker: 0 are too few"),
        ({"gpus": -1.0}, "GPUs of a worker: -1 is not allowed"),
        ({"gpus": 1.5}, "GPUs of a worker: 1.5 is not allowed"),
        ({"gpus": float("nan")}, "GPUs of a worker: nan is not allowed"),
    ],
)
def test_impossible_workers_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Workers(**fields)


@pytest.mark.parametrize(
    ("workers", "threads"),
    [
        (Workers(2), 4),
        (Workers(3), 2),
        (Workers(9), 1),
        (Workers(2, address="auto"), 1),
        (Workers(2, threads=5), 5),
        (Workers(2, "auto", 5), 5),
    ],
)
def test_workers_share_the_cores_of_this_machine_and_have_one_each_on_a_cluster(
    workers: Workers, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    assert workers.threads_each == threads


def test_more_gpus_than_this_machine_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from qsearch.execution import ray_cluster

    ended: list[str] = []
    monkeypatch.setattr(ray_cluster.ray, "init", lambda **_: None)
    monkeypatch.setattr(ray_cluster.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: ended.append("cluster"))
    with pytest.raises(InputError, match="2 workers of 500 GPUs each: this machine has 0"):
        ray_cluster.connect(Workers(2, threads=1, gpus=500.0))
    assert ended == ["cluster"]


def test_an_interrupted_study_ends_its_workers_and_exits_130(tmp_path: Path) -> None:
    marker = tmp_path / "evaluating"
    faults = [{"kind": "slow", "once": str(marker)}]
    study = write_study_yaml(tmp_path / "study.yaml", **SMALL, trainer__faults=faults)
    arguments = ["run", str(study), "--out", str(tmp_path / "run"), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "qsearch", *arguments],
        env=command_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not marker.exists():
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 130, errors
    assert "interrupted; the same command resumes" in errors
    assert "Traceback" not in errors
    assert len(workers) > 2
    _, alive = psutil.wait_procs(workers, timeout=500)
    assert alive == []


def is_evaluating(node: Any) -> bool:
    """Return whether a worker of a node evaluates; Ray names processes by what they do."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    titles = []
    for process in raylet.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # It ended just now.
            titles.append(" ".join(process.cmdline()))
    return any("Worker.evaluate" in title for title in titles)


def test_a_node_that_dies_takes_nothing_with_it(
    cluster: Any, workers: Workers, tmp_path: Path
) -> None:
    evaluated = []

    def lose_a_node(event: Event) -> None:
        if event.kind != "evaluated":
            return
        evaluated.append(event)
        if len(evaluated) != SMALL["search__initial"] - 1:
            return
        # Of the first set one is left: that which takes an hour.
        evaluating: list[Any] = []
        while len(evaluating) != 1:
            evaluating = [node for node in cluster.list_all_nodes() if is_evaluating(node)]
        cluster.remove_node(evaluating[0], allow_graceful=False)

    faults = [{"kind": "slow", "once": str(tmp_path / "slow")}]
    spec = study_spec(**SMALL, trainer__faults=faults, search__rounds=1)
    run_spec(spec, tmp_path / "run", observer=lose_a_node, workers=workers)
    trials = results(tmp_path / "run")
    assert len(trials) == 7
    assert (trials["status"] == "completed").all()
    assert events_of(tmp_path / "run", "worker lost")
