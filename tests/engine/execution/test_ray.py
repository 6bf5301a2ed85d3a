"""Studies whose configurations workers of a Ray cluster evaluate."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pandas.testing import assert_frame_equal

from qsearch.errors import InputError, QsearchError
from qsearch.execution.ray_worker import Worker, identity
from qsearch.execution.workers import Workers
from qsearch.monitoring.events import Event
from qsearch.plugins.components import build_components
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.study_record import read_study
from qsearch.study.run import run_study
from tests.engine.support import (
    FIXTURES,
    command,
    command_environment,
    results,
    study_spec,
    write_study_yaml,
)

if not os.environ.get("CI"):
    pytest.importorskip("ray", reason="the extra ray is not installed")

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[3]
HOURS = 3600.0
"""A time limit that no evaluation reaches."""


def make_cluster() -> Any:
    """Start a cluster of three nodes on this machine: a head without workers, and two others."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    return cluster


@pytest.fixture(scope="module", autouse=True)
def plugins_of_workers() -> Iterator[None]:
    """Workers are processes of their own; they find the fake plugins by this variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(FIXTURES), str(ROOT)]))
        yield


@pytest.fixture(scope="module")
def workers(plugins_of_workers: None) -> Iterator[Workers]:
    """Two workers of a cluster that several tests share."""
    cluster = make_cluster()
    yield Workers(count=2, address=cluster.address, threads=1)
    cluster.shutdown()


def logged(directory: Path, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == kind]


def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(
    workers: Workers, finished: Path, tmp_path: Path
) -> None:
    faults = [
        {"kind": "die", "once": str(tmp_path / "first")},
        {"kind": "die", "first_round": 2, "once": str(tmp_path / "second")},
    ]
    run_study(study_spec(trainer__faults=faults), tmp_path / "run", workers=workers)
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)
    assert [event["round"] for event in logged(tmp_path / "run", "worker lost")] == [1, 2]


def test_a_configuration_that_kills_its_workers_fails_alone(
    workers: Workers, tmp_path: Path
) -> None:
    faults = [{"kind": "die", "layer": "block.0.key", "bits": 8}]
    spec = study_spec(trainer__blocks=1, trainer__faults=faults, search__rounds=1)
    run_study(spec, tmp_path / "run", workers=workers)
    rows = read_study(tmp_path / "run").trials
    deadly = rows["configuration"].map(lambda text: json.loads(text)["block.0.key"]["bits"] == 8)
    assert deadly.any()
    assert (rows["status"] == "failed").equals(deadly)
    assert rows.loc[deadly, "reason"].str.startswith("3 workers died of it").all()


def test_an_evaluation_that_takes_too_long_is_ended_and_evaluated_again(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study in a thread can do so, too. Time passes when the slow evaluation has begun."""
    marker = tmp_path / "slow"
    clock = SimpleNamespace(monotonic=lambda: 2 * HOURS if marker.exists() else 0.0)
    monkeypatch.setattr("qsearch.execution.ray_executor.time", clock)
    spec = study_spec(
        search__rounds=1,
        trainer__faults=[{"kind": "slow", "once": str(marker)}],
        failures__timeout_seconds=HOURS,
        failures__retries=1,
    )
    thread = threading.Thread(
        target=run_study, args=(spec, tmp_path / "run"), kwargs={"workers": workers}, daemon=True
    )
    thread.start()
    thread.join(300)
    assert (results(tmp_path / "run")["status"] == "completed").all()
    # The other worker's evaluation may have begun before time passed, too.
    retries = logged(tmp_path / "run", "retry")
    assert 1 <= len(retries) <= 2
    assert {event["reason"] for event in retries} == {
        "took longer than failures.timeout_seconds: 3600"
    }


def test_answers_that_came_while_the_study_was_busy_are_not_too_late(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a database is away: results wait, and are no slower for it."""
    from qsearch.execution import ray_executor

    now = [0.0]
    wait = ray_executor.ray.wait

    def answered(references: list[Any], num_returns: int, timeout: float) -> Any:
        # What is asked for without waiting has come while the study was busy.
        return wait(references, num_returns=num_returns, timeout=timeout or 300)

    def be_busy(event: Event) -> None:
        if event.kind == "evaluated":
            now[0] += 2 * HOURS

    monkeypatch.setattr(ray_executor, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(ray_executor.ray, "wait", answered)
    spec = study_spec(search__rounds=1, failures__timeout_seconds=HOURS)
    run_study(spec, tmp_path / "run", observer=be_busy, workers=workers)
    assert (results(tmp_path / "run")["status"] == "completed").all()


def test_failures_on_workers_are_those_of_a_serial_run(workers: Workers, tmp_path: Path) -> None:
    faults = [
        {"kind": "nan", "layer": "block.0.key", "bits": 8},
        {"kind": "memory", "layer": "block.0.query", "bits": 4, "first_round": 2},
    ]
    spec = study_spec(trainer__blocks=1, trainer__faults=faults, failures__rate=1.0)
    run_study(spec, tmp_path / "serial")
    run_study(spec, tmp_path / "workers", workers=workers)
    assert (results(tmp_path / "serial")["status"] == "failed").any()
    assert_frame_equal(results(tmp_path / "workers"), results(tmp_path / "serial"))


def test_a_study_resumes_with_other_workers_than_it_began_with(
    workers: Workers, finished: Path, tmp_path: Path
) -> None:
    run_study(study_spec(search__rounds=1), tmp_path / "run", workers=workers)
    run_study(study_spec(), tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)


def test_a_cluster_that_cannot_be_reached_is_one_message(tmp_path: Path) -> None:
    away = Workers(count=2, address="127.0.0.1:1")
    with pytest.raises(InputError, match=r"--address '127\.0\.0\.1:1': cannot be used"):
        run_study(study_spec(), tmp_path / "run", workers=away)


def test_workers_that_cannot_load_the_study_are_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(
        QsearchError, match=r"a worker cannot continue: .*no quantizer is called 'fake'"
    ):
        run_study(study_spec(), tmp_path / "run", workers=Workers(count=2, threads=1))


def worker_of(spec: StudySpec, **differing: str) -> Worker:
    driver = identity(build_components(spec)) | differing
    return Worker(spec.model_dump_json(), json.dumps(driver), 1)


def test_a_worker_with_the_drivers_versions_model_and_data_evaluates(fake_plugins: None) -> None:
    assert worker_of(build_components(study_spec()).spec).use().error is None


@pytest.mark.parametrize("name", ["version of torch", "SHA-256 of validation"])
def test_a_worker_with_another_version_or_other_data_refuses_to(
    name: str, fake_plugins: None
) -> None:
    error = worker_of(build_components(study_spec()).spec, **{name: "another"}).use().error
    assert error is not None
    assert "a node differs from the machine that drives the study" in error
    assert f"{name}: another, there" in error


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


def test_more_gpus_than_this_machine_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 workers of 500 GPUs each: this machine has"):
        run_study(study_spec(), tmp_path / "run", workers=Workers(2, threads=1, gpus=500.0))


def test_an_interrupted_study_ends_its_workers_and_exits_130(tmp_path: Path) -> None:
    marker = tmp_path / "evaluating"
    faults = [{"kind": "slow", "once": str(marker)}]
    study = write_study_yaml(tmp_path / "study.yaml", trainer__faults=faults)
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
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "interrupted; the same command resumes" in errors
    assert "Traceback" not in errors
    assert len(workers) > 2
    _, alive = psutil.wait_procs(workers, timeout=300)
    assert alive == []


def test_the_command_line_runs_a_study_on_workers_whose_results_equal_a_serial_runs(
    finished: Path, tmp_path: Path
) -> None:
    study = write_study_yaml(tmp_path / "study.yaml")
    # Whatever cluster happens to run on this machine, these workers are of one of their own.
    arguments = ["run", study, "--out", tmp_path / "run", "--workers", "2"]
    done = command(arguments, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)


def is_evaluating(node: Any) -> bool:
    """Return whether a worker of a node evaluates; Ray names processes by what they do."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    titles = [" ".join(process.cmdline()) for process in raylet.children(recursive=True)]
    return any("Worker.evaluate" in title for title in titles)


def test_a_node_that_dies_takes_nothing_with_it(finished: Path, tmp_path: Path) -> None:
    cluster, evaluated = make_cluster(), []

    def lose_a_node(event: Event) -> None:
        if event.kind != "evaluated":
            return
        evaluated.append(event)
        if len(evaluated) != 5:
            return
        # Of the six configurations of the first round, one is left: that which takes an hour.
        evaluating: list[Any] = []
        while len(evaluating) != 1:
            evaluating = [node for node in cluster.list_all_nodes() if is_evaluating(node)]
        cluster.remove_node(evaluating[0], allow_graceful=False)

    faults = [{"kind": "slow", "once": str(tmp_path / "slow")}]
    workers = Workers(count=2, address=cluster.address, threads=1)
    spec = study_spec(trainer__faults=faults)
    try:
        run_study(spec, tmp_path / "run", observer=lose_a_node, workers=workers)
    finally:
        cluster.shutdown()
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)
    assert logged(tmp_path / "run", "worker lost")
