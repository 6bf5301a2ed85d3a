"""A study whose output nobody can take any more; each in a process of its own."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from qsearch.monitoring.events import Event, EventKind, event_log, last_event
from qsearch.storage.study_record import read_study
from tests.engine.support import command, command_environment, write_study_yaml


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of one round, with few evaluations."""
    return write_study_yaml(
        tmp_path / "study.yaml",
        name="東京",
        trainer__blocks=1,
        search__rounds=1,
        search__initial=4,
        search__candidates=1,
    )


def start(study: Path, output: int | IO[bytes], **variables: str) -> subprocess.Popen[bytes]:
    out = study.parent / "run"
    return subprocess.Popen(
        [sys.executable, "-m", "qsearch.cli.main", "run", str(study), "--out", str(out)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        env=command_environment(**variables),
        start_new_session=True,  # A terminal that goes away sends no signal then.
    )


def assert_finished(process: subprocess.Popen[bytes], directory: Path) -> str:
    """Assert that a process comes to the study's end; return what it says on standard error."""
    errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, errors
    assert (last_event(directory / "log.jsonl") or {})["event"] == "finished"
    assert len(read_study(directory).rounds) == 1
    assert (directory / "report.html").is_file()
    assert "Traceback" not in errors
    return errors


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
    errors = assert_finished(process, study.parent / "run")
    expected = "standard output cannot be written, the study goes on without it: Broken pipe"
    assert errors == f"qsearch: {expected}\n"


def test_a_study_goes_on_where_its_output_fills_a_disk(study: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        errors = assert_finished(start(study, full), study.parent / "run")
    assert errors.count("\n") == 1
    assert "standard output cannot be written" in errors


def test_characters_that_a_terminal_lacks_are_written_as_escapes(tmp_path: Path) -> None:
    event_log(tmp_path / "log.jsonl")(
        Event(EventKind.FAILED, 0, {"trial": 1, "reason": "東京 → …"})
    )
    shown = command(["status", tmp_path], PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert "\\u6771\\u4eac \\u2192 \\u2026 (1 \\xd7)" in shown.stdout


def test_a_study_runs_where_its_characters_cannot_be_shown(study: Path) -> None:
    process = start(study, subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert process.stdout is not None
    shown = process.stdout.read().decode("ascii")
    assert_finished(process, study.parent / "run")
    assert "\\u6771\\u4eac" in shown
