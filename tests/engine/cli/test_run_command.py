"""``run``: signals, output that may get lost, names that may be odd."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from inspect import signature
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from qsearch.cli import main
from qsearch.cli.lasting_output import lasting_output
from qsearch.monitoring.events import last_event
from qsearch.storage.lock import study_lock
from qsearch.storage.paths import LOG
from qsearch.storage.study_record import read_study
from qsearch.study.run import run_spec
from tests.engine.fake_study import write_study_yaml

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


class Running(NamedTuple):
    """A forked process, which needs no imports, that runs the study's command."""

    number: int
    directory: Path
    errors: Path

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and what it said on standard error."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
        return code, self.errors.read_text()

    def finished(self) -> str:
        """Require that it comes to the study's end; return what it said on standard error."""
        code, errors = self.ended()
        assert code == 0, errors
        assert (last_event(self.directory / LOG) or {})["event"] == "finished"
        assert len(read_study(self.directory).rounds) == 1
        assert (self.directory / "report.html").is_file()
        assert "Traceback" not in errors
        return errors


def start(study: Path, output: int) -> Running:
    """Start the study's command, whose standard output is a file that is open here."""
    out, errors = study.parent / "run", study.parent / "errors"
    number = os.fork()
    if number:
        return Running(number, out, errors)
    code = 99
    try:
        os.setsid()  # A terminal that goes away sends no signal then.
        os.dup2(output, 1)
        os.closerange(3, 1024)  # The other end of a pipe, too.
        os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
        sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
        sys.argv = ["qsearch", "run", str(study), "--out", str(out)]
        main.main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def test_a_signal_stops_a_study_cleanly_and_the_same_command_resumes(study: Path, qsearch) -> None:
    evaluating = study.parent / "evaluating"
    values = yaml.safe_load(study.read_text())
    values["trainer"]["faults"] = [{"kind": "slow", "once": str(evaluating)}]
    study.write_text(yaml.safe_dump(values))
    with Path(os.devnull).open("w") as nowhere:
        process = start(study, nowhere.fileno())
    while not evaluating.exists():
        assert os.waitpid(process.number, os.WNOHANG) == (0, 0)
        time.sleep(0.05)
    os.kill(process.number, signal.SIGTERM)
    assert process.ended() == (130, "qsearch: interrupted; the same command resumes\n")
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


@pytest.mark.parametrize(("options", "seconds"), [([], 900), (["--storage-wait", "2.5"], 150)])
def test_minutes_to_wait_for_a_database_are_given_on_to_the_study(
    options: list[str], seconds: float, study: Path, qsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def note(*arguments: object) -> None:
        given.update(signature(run_spec).bind(*arguments).arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("qsearch.study.run.run_spec", note)
    assert qsearch("run", study, "--out", study.parent / "run", *options).code == 130
    assert given["storage_wait"] == seconds


def test_a_name_cannot_steer_the_terminal(study: Path, qsearch) -> None:
    code, output, errors = qsearch("run", study, "--out", study.parent / "run")
    assert (code, errors) == (0, "")
    assert "東京\\x1b[2J\\u202e: best configuration at or under each budget" in output
    assert "round 1: found 1 candidates" in output
    assert not set(STEER[0] + STEER[-1]) & set(output)


def test_a_study_outlives_its_terminal(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, terminal = pty.openpty()
    process = start(study, terminal)
    os.close(terminal)
    assert os.read(ours, 1)  # It draws.
    os.close(ours)
    process.finished()


def test_a_study_outlives_the_reader_of_its_output(study: Path) -> None:
    ours, output = os.pipe()
    process = start(study, output)
    os.close(output)
    with os.fdopen(ours, "rb", buffering=0) as stream:
        assert stream.readline().startswith(b"round 1: ")
    expected = "standard output cannot be written, the study continues without it: Broken pipe"
    assert process.finished() == f"qsearch: {expected}\n"


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
    assert "standard output cannot be written, the study continues without it" in error


def test_where_standard_error_is_lost_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", buffering=1) as errors:
        monkeypatch.setattr(sys, "stderr", errors)
        with lasting_output():
            print("lost", file=sys.stderr)
    monkeypatch.setattr(sys, "stderr", None)  # As where the shell closed it.
    with lasting_output():
        print("lost", file=sys.stderr)
