"""Studies whose configurations workers of a Ray cluster evaluate."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
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

TWO = Workers(count=2, threads=1)


@pytest.fixture(autouse=True)
def plugins_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are processes of their own; they find the fake plugins by this variable."""
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FIXTURES), str(root)]))


def events(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def told(directory: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in events(directory) if event["event"] == kind]


def test_screening_and_probes_on_workers_equal_those_of_a_serial_run(tmp_path: Path) -> None:
    spec = study_spec(
        task__name="counting",
        trainer__blocks=1,
        search__scores="measured",
        search__screening={"one_in": 2, "factor": 2},
    )
    run_study(spec, tmp_path / "serial")
    run_study(spec, tmp_path / "workers", workers=TWO)
    assert_frame_equal(results(tmp_path / "workers"), results(tmp_path / "serial"))


def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(finished: Path, tmp_path: Path) -> None:
    faults = [
        {"kind": "die", "once": str(tmp_path / "first")},
        {"kind": "die", "first_round": 1, "once": str(tmp_path / "second")},
    ]
    run_study(study_spec(trainer__faults=faults), tmp_path / "run", workers=TWO)
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)
    assert [event["round"] for event in told(tmp_path / "run", "worker lost")] == [0, 1]


def test_a_configuration_that_kills_its_workers_fails_alone(tmp_path: Path) -> None:
    faults = [{"kind": "die", "layer": "block.0.key", "bits": 8}]
    spec = study_spec(trainer__blocks=1, trainer__faults=faults)
    run_study(spec, tmp_path / "run", workers=TWO)
    rows = read_study(tmp_path / "run").trials
    deadly = rows["configuration"].map(lambda text: json.loads(text)["block.0.key"]["bits"] == 8)
    assert deadly.any()
    assert (rows["status"] == "failed").equals(deadly)
    assert rows.loc[deadly, "reason"].str.startswith("3 workers died of it").all()


def test_an_evaluation_that_takes_too_long_is_ended_and_evaluated_again(
    finished: Path, tmp_path: Path
) -> None:
    faults = [{"kind": "slow", "once": str(tmp_path / "slow")}]
    spec = study_spec(trainer__faults=faults, failures__timeout_seconds=2.0, failures__retries=1)
    run_study(spec, tmp_path / "run", workers=TWO)
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)
    (retry,) = told(tmp_path / "run", "retry")
    assert retry["reason"] == "took longer than failures.timeout_seconds: 2"


def test_failures_on_workers_are_those_of_a_serial_run(tmp_path: Path) -> None:
    faults = [
        {"kind": "nan", "layer": "block.0.key", "bits": 8},
        {"kind": "memory", "layer": "block.0.query", "bits": 4, "first_round": 1},
    ]
    spec = study_spec(trainer__blocks=1, trainer__faults=faults, failures__rate=1.0)
    run_study(spec, tmp_path / "serial")
    run_study(spec, tmp_path / "workers", workers=TWO)
    assert (results(tmp_path / "serial")["status"] == "failed").any()
    assert_frame_equal(results(tmp_path / "workers"), results(tmp_path / "serial"))


def test_a_study_goes_on_with_other_workers_than_it_began_with(
    finished: Path, tmp_path: Path
) -> None:
    spec = study_spec()
    run_study(study_spec(search__rounds=1), tmp_path / "run", workers=TWO)
    run_study(spec, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)


def test_a_cluster_that_cannot_be_reached_is_one_message(tmp_path: Path) -> None:
    away = Workers(count=2, address="127.0.0.1:1")
    with pytest.raises(InputError, match=r"--address '127\.0\.0\.1:1': cannot be used"):
        run_study(study_spec(), tmp_path / "run", workers=away)


def test_workers_that_cannot_load_the_study_are_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    with pytest.raises(
        QsearchError, match=r"a worker cannot go on: .*no quantizer is called 'fake'"
    ):
        run_study(study_spec(), tmp_path / "run", workers=TWO)


def test_answers_that_came_while_the_study_was_busy_are_not_too_late(tmp_path: Path) -> None:
    """As while a database is away: results wait, and are no slower for it."""

    def be_busy(event: Event) -> None:
        if event.kind == "evaluated" and event.fields["done"] == 1:
            time.sleep(4)

    spec = study_spec(search__rounds=1, failures__timeout_seconds=2.0)
    run_study(spec, tmp_path / "run", observer=be_busy, workers=TWO)
    assert (results(tmp_path / "run")["status"] == "completed").all()


def test_a_study_in_a_thread_can_cut_evaluations_off_on_workers(tmp_path: Path) -> None:
    faults = [{"kind": "slow", "once": str(tmp_path / "slow")}]
    spec = study_spec(
        search__rounds=1,
        trainer__faults=faults,
        failures__timeout_seconds=2.0,
        failures__retries=1,
    )
    thread = threading.Thread(
        target=lambda: run_study(spec, tmp_path / "run", workers=TWO), daemon=True
    )
    thread.start()
    thread.join(120)
    assert (results(tmp_path / "run")["status"] == "completed").all()
    assert len(told(tmp_path / "run", "retry")) == 1


def worker_of(spec: StudySpec, **differing: str) -> Worker:
    known = identity(build_components(spec)) | differing
    return Worker(spec.model_dump_json(), json.dumps(known), 1)


def test_a_worker_alike_in_versions_model_and_data_evaluates(fake_plugins: None) -> None:
    spec = build_components(study_spec()).spec
    assert worker_of(spec).use().error is None


@pytest.mark.parametrize("what", ["version of torch", "SHA-256 of validation"])
def test_a_worker_with_another_version_or_other_data_refuses_to(
    what: str, fake_plugins: None
) -> None:
    error = worker_of(build_components(study_spec()).spec, **{what: "another"}).use().error
    assert error is not None
    assert "a node differs from the machine that drives the study" in error
    assert f"{what}: another, there" in error


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
def test_workers_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Workers(**fields)


def test_more_gpus_than_this_machine_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 workers of 500 GPUs each: this machine has"):
        run_study(study_spec(), tmp_path / "run", workers=Workers(2, threads=1, gpus=500.0))


def test_an_interrupted_study_ends_its_workers_and_exits_130(tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "study.yaml", trainer__seconds=1.0)
    arguments = ["run", str(study), "--out", str(tmp_path / "run"), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "qsearch", *arguments],
        env=command_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    log = tmp_path / "run" / "log.jsonl"
    while time.monotonic() < deadline and not (log.is_file() and told(log.parent, "evaluated")):
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted; the same command resumes" in errors
    assert "Traceback" not in errors
    assert len(workers) > 2
    _, alive = psutil.wait_procs(workers, timeout=90)
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


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of three nodes on this machine: a head that works for nobody, and two others."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


def test_a_node_that_dies_takes_nothing_with_it(
    cluster: Any, finished: Path, tmp_path: Path
) -> None:
    seconds, gone, times = 0.5, [], [-math.inf]

    def lose_a_node(event: Any) -> None:
        if event.kind != "evaluated" or gone:
            return
        times.append(time.monotonic())
        # One worker alone would have taken longer: both are at work, and the node's will be missed.
        if times[-1] - times[-2] < 0.8 * seconds:
            gone.append(cluster.list_all_nodes()[-1])
            cluster.remove_node(gone[0], allow_graceful=False)

    workers = Workers(count=2, address=cluster.address, threads=1)
    spec = study_spec(trainer__seconds=seconds)
    run_study(spec, tmp_path / "run", observer=lose_a_node, workers=workers)
    assert gone
    assert_frame_equal(results(tmp_path / "run"), results(finished), check_exact=True)
    assert told(tmp_path / "run", "worker lost")
