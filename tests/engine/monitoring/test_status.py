"""How far a study is, as other terminals see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from qsearch.errors import InputError
from qsearch.monitoring.events import Event, EventKind, event_line, event_log
from qsearch.monitoring.progress_file import progress_file
from qsearch.monitoring.status import study_status
from qsearch.spec.study_spec import dump_spec
from qsearch.storage.lock import study_lock
from tests.engine.support import (
    command,
    command_environment,
    study_spec,
    write_study_yaml,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A study that has told two evaluations of four, ten seconds each, and not saved any."""
    (tmp_path / "state").mkdir()
    (tmp_path / "study.yaml").write_text(dump_spec(study_spec(search__stop={"hours": 2})))
    events = (
        (40, Event(EventKind.STARTED, 0, {"rounds": 2})),
        (40, Event(EventKind.ROUND_STARTED, 0, {"training_set": 4})),
        (30, Event(EventKind.TRAINED, 0, {"steps": 3, "seconds": 10.0, "loss": 0.4})),
        (30, Event(EventKind.EVALUATING_THE_SET, 0, {"total": 4})),
        (20, Event(EventKind.EVALUATED, 0, {"trial": 0, "average_bits": 3.0, "loss": 0.5})),
        (10, Event(EventKind.FAILED, 0, {"trial": 1, "reason": "no memory"})),
    )
    now = datetime.now(UTC)
    lines = [
        {**event_line(event), "time": (now - timedelta(seconds=ago)).isoformat()}
        for ago, event in events
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(text)
    return tmp_path


def emit(directory: Path, *events: Event) -> None:
    observe = event_log(directory / "log.jsonl")
    for event in events:
        observe(event)


def labels(directory: Path) -> dict[str, str]:
    return dict(study_status(directory).lines())


def test_a_running_study_says_its_phase_and_how_far_that_is(directory: Path) -> None:
    with study_lock(directory):
        status = study_status(directory)
        shown = dict(status.lines())
    assert status.phase is not None
    assert (status.phase.name, status.phase.done, status.phase.total) == (
        "evaluating the set",
        2,
        4,
    )
    assert shown["phase"] == "round 1: evaluating the set, 2/4, 6.0 a minute"
    assert shown["time spent"].endswith("of 2 h (search.stop.hours)")
    # A search has not been seen, so the study's end cannot be known.
    assert status.seconds_left is None
    # Two of ten seconds, one of which has nearly passed.
    assert status.phase_seconds_left == pytest.approx(10, abs=5)
    assert shown["time left"].startswith("not known yet; this phase about")
    assert f"process {os.getpid()} on" in shown["running"]


@pytest.mark.parametrize(
    ("pace", "text"), [(0.05, "1200 a minute"), (10, "6.0 a minute"), (240, "15 an hour")]
)
def test_a_rate_is_told_in_a_unit_that_suits_it(pace: float, text: str, directory: Path) -> None:
    with study_lock(directory):
        status = study_status(directory)
    assert status.phase is not None
    phase = replace(status.phase, per_minute=60 / pace)
    assert replace(status, phase=phase).phase_text().endswith(f", {text}")


def test_a_study_that_nobody_runs_has_no_phase_and_no_time_left(directory: Path) -> None:
    status = study_status(directory)
    assert (status.running, status.phase, status.seconds_left) == (None, None, None)
    assert "time left" not in labels(directory)


def test_failures_are_counted_by_reason(directory: Path) -> None:
    emit(directory, *(Event(EventKind.FAILED, 0, {"trial": n, "reason": "slow"}) for n in (2, 3)))
    status = study_status(directory)
    assert status.failed == 3
    assert status.failures == (("slow", 2), ("no memory", 1))
    assert ("failed with", "slow (2 ×)") in status.lines()


def test_the_last_event_is_told_with_its_figures(directory: Path) -> None:
    assert labels(directory)["last event"].endswith("round 1, trial 1, reason no memory")


def test_training_is_seen_from_its_file_of_progress(directory: Path) -> None:
    emit(directory, Event(EventKind.ROUND_STARTED, 1, {"training_set": 4}))
    time.sleep(0.002)  # Times in the log are in milliseconds.
    observe = progress_file(directory, now=iter(range(100)).__next__)
    for step in (5, 6):
        observe(Event(EventKind.TRAINING, 1, {"step": step, "total": 8, "loss": 0.3}))
    with study_lock(directory):
        phase = study_status(directory).phase
    assert phase is not None
    assert (phase.name, phase.round, phase.done, phase.total) == ("training", 1, 6, 8)


def test_a_finished_study_has_all_that_its_table_has(finished: Path) -> None:
    status = study_status(finished)
    assert status.name == "fake"
    assert (status.rounds_finished, status.rounds) == (2, 2)
    assert (status.completed, status.failed) == (len(status_rows(finished)), 0)
    assert status.finished == "search.rounds: 2 reached"
    assert len(status.hypervolumes) == 2
    assert status.spent_seconds is not None
    assert status.spent_seconds > 0


def status_rows(directory: Path) -> list[str]:
    text = (directory / "log.jsonl").read_text()
    return [line for line in text.splitlines() if '"event": "evaluated"' in line]


def test_the_version_changes_with_the_results_alone(finished: Path, tmp_path: Path) -> None:
    before = study_status(finished).version
    assert before is not None
    assert study_status(finished).version == before
    copy = tmp_path / "copy"
    (copy / "state").mkdir(parents=True)
    for name in ("state/study.json", "trials.parquet", "log.jsonl"):
        (copy / name).write_bytes((finished / name).read_bytes())
    first = study_status(copy).version
    emit(copy, Event(EventKind.RETRY, 0, {"trial": 1}))
    assert study_status(copy).version == first
    os.utime(copy / "trials.parquet", ns=(1, 1))
    assert study_status(copy).version != first


def test_a_directory_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study results"):
        study_status(tmp_path)


@pytest.mark.parametrize("content", ["", "search: 3", "search: [", "a: !!python/object:x {}"])
def test_without_its_limits_a_study_has_a_status_all_the_same(
    content: str, directory: Path
) -> None:
    (directory / "study.yaml").write_text(content)
    with study_lock(directory):
        status = study_status(directory)
    assert (status.rounds, status.seconds_left) == (None, None)
    assert status.completed == 1


def test_its_status_leaves_a_directory_as_it_was(directory: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))}
    study_status(directory)
    assert {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))} == before


def test_status_needs_neither_pytorch_nor_ax() -> None:
    code = "import sys, qsearch.monitoring.status; assert not {'torch', 'ax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=command_environment())


def test_a_study_that_may_end_sooner_says_so(directory: Path) -> None:
    values = yaml.safe_load((directory / "study.yaml").read_text())
    values["search"] |= {"candidates": 0, "rounds": 1, "stop": {"tolerance": 0.01}}
    (directory / "study.yaml").write_text(yaml.safe_dump(values))
    with study_lock(directory):
        status = study_status(directory)
    assert status.seconds_left is not None
    assert status.left_text().endswith("UTC, or sooner (search.stop.tolerance)")
    assert status.end is not None
    ahead = datetime.fromisoformat(status.end) - datetime.fromisoformat(status.time)
    assert ahead.total_seconds() == pytest.approx(status.seconds_left, abs=0.01)


# In processes of their own


def test_status_prints_json_that_a_program_reads(finished: Path) -> None:
    done = command(["status", finished, "--json"])
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["finished"] == "search.rounds: 2 reached"
    assert found["failures"] == []
    assert found["last_event"]["event"] == "finished"


def test_escapes_in_a_reason_do_not_reach_the_terminal(directory: Path) -> None:
    emit(directory, Event(EventKind.FAILED, 0, {"trial": 2, "reason": "\x1b[2J\x9b31mgone"}))
    done = command(["status", directory])
    assert done.returncode == 0
    assert "gone" in done.stdout
    assert not {"\x1b", "\x9b"} & set(done.stdout)


def test_a_run_with_a_logger_writes_for_it(tmp_path: Path) -> None:
    fast = {"search__rounds": 1, "search__candidates": 0, "search__initial": 3}
    study = write_study_yaml(tmp_path / "my.yaml", **fast)
    done = command(["run", study, "--out", tmp_path / "out", "--logger", "tensorboard"])
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "out" / "tensorboard").iterdir())


def test_a_run_with_an_unknown_logger_is_refused_before_it_begins(tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml")
    done = command(["run", study, "--out", tmp_path / "out", "--logger", "paper"])
    assert done.returncode == 2
    assert "no logger is called 'paper'; installed:" in done.stderr
    assert not (tmp_path / "out").exists()


def test_plugins_lists_loggers() -> None:
    lines = command(["plugins"]).stdout.splitlines()
    named = {tuple(line.split()[:2]) for line in lines}
    assert {("logger", "tensorboard"), ("logger", "mlflow")} <= named


def test_watching_a_running_study_goes_on_until_it_ends(tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "my.yaml", search__rounds=1, trainer__seconds=0.4)
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-m", "qsearch.cli.main", "run", str(study), "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=command_environment(),
    ) as process:
        while not (out / "log.jsonl").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        done = command(["status", out, "--watch", "--json", "--every", "0.3"])
        assert process.wait() == 0
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) > 2
    assert found[0]["running"] is not None
    assert found[-1]["running"] is None
    assert found[-1]["finished"] == "search.rounds: 1 reached"
    assert all(earlier["completed"] <= later["completed"] for earlier, later in pairwise(found))


def test_watching_ends_well_by_an_interrupt(directory: Path) -> None:
    with study_lock(directory):
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "qsearch.cli.main",
                "status",
                str(directory),
                "--watch",
                "--json",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=command_environment(),
        )
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["running"] is not None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
