"""``run``: signals, output that may get lost, names that may be odd."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
import yaml

from qsearch.cli.lasting_output import lasting_output
from qsearch.monitoring.events import last_event
from qsearch.storage.lock import study_lock
from qsearch.storage.paths import LOG
from qsearch.storage.study_record import read_study
from tests.engine.support import command_environment, write_study_yaml

STEER = "\x1b[2J\u202e"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of one round, with few evaluations, whose name would steer a terminal."""
    return write_study_yaml(
        tmp_path / "study.yaml",
        name=f"東京{STEER}",
        trainer__blocks=1,
        search__rounds=1,
        search__initial=4,
        search__candidates=1,
    )


def start(study: Path, output: int | IO[bytes], **variables: str) -> subprocess.Popen[bytes]:
    out = study.parent / "run"
    return subprocess.Popen(
        [sys.executable, "-m", "qsearch", "run", str(study), "--out", str(out)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        env=command_environment(**variables),
        start_new_session=True,  # A terminal that goes away sends no signal then.
    )


def assert_finished(process: subprocess.Popen[bytes], directory: Path) -> str:
    """Require that a process comes to the study's end; return what it says on standard error."""
    errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, errors
    assert (last_event(directory / LOG) or {})["event"] == "finished"
    assert len(read_study(directory).rounds) == 1
    assert (directory / "report.html").is_file()
    assert "Traceback" not in errors
    return errors


def test_a_signal_stops_a_study_cleanly_and_the_same_command_resumes(study: Path, qsearch) -> None:
    evaluating = study.parent / "evaluating"
    values = yaml.safe_load(study.read_text())
    values["trainer"]["faults"] = [{"kind": "slow", "once": str(evaluating)}]
    study.write_text(yaml.safe_dump(values))
    process = start(study, subprocess.DEVNULL)
    while not evaluating.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1].decode()
    assert (process.returncode, errors) == (130, "qsearch: interrupted; the same command resumes\n")
    code, output, errors = qsearch("run", study, "--out", study.parent / "run")
    assert (code, errors) == (0, "")
    assert f"report: {study.parent / 'run' / 'report.html'}" in output


def test_a_second_process_on_a_directory_is_refused(study: Path, qsearch) -> None:
    out = study.parent / "run"
    (out / "state").mkdir(parents=True)
    with study_lock(out):
        errors = qsearch("run", study, "--out", out).refused()
    assert f"run already, by process {os.getpid()}" in errors
    assert [path.name for path in out.iterdir()] == ["state"]


def test_a_name_cannot_steer_the_terminal(study: Path, qsearch) -> None:
    code, output, errors = qsearch("run", study, "--out", study.parent / "run")
    assert (code, errors) == (0, "")
    assert "東京\\x1b[2J\\u202e: best configuration at or under each budget" in output
    assert "round 1: found 1 candidates" in output
    assert not set(STEER[0] + STEER[-1]) & set(output)


def test_a_study_outlives_its_terminal(study: Path) -> None:
    ours, terminal = pty.openpty()
    process = start(study, terminal, TERM="xterm")
    os.close(terminal)
    assert os.read(ours, 1)  # It draws.
    os.close(ours)
    assert_finished(process, study.parent / "run")


def test_a_study_outlives_the_reader_of_its_output(study: Path) -> None:
    process = start(study, subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"round 1: ")
    process.stdout.close()
    process.stdout = None
    expected = "standard output cannot be written, the study goes on without it: Broken pipe"
    assert assert_finished(process, study.parent / "run") == f"qsearch: {expected}\n"


@pytest.mark.parametrize("stream", ["full disk", "closed"])
def test_what_cannot_be_printed_is_lost_with_one_message(
    stream: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        if stream == "closed":
            output.close()
        with lasting_output():
            for _ in range(2):
                print("lost", flush=True)
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("qsearch: standard output cannot be written, the study goes on without")


def test_where_standard_error_is_lost_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", buffering=1) as errors:
        monkeypatch.setattr(sys, "stderr", errors)
        with lasting_output():
            print("lost", file=sys.stderr)
    monkeypatch.setattr(sys, "stderr", None)  # As where the shell closed it.
    with lasting_output():
        print("lost", file=sys.stderr)
