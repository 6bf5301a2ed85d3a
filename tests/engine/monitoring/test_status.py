"""How far a study is, as other terminals see it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from qsearch.cli.watch_commands import status
from qsearch.monitoring.events import Event, EventKind, event_log
from qsearch.monitoring.status import StudyStatus, study_status
from qsearch.monitoring.status_file import PhaseStatus
from qsearch.monitoring.status_text import phase_text, status_lines, time_left_text
from qsearch.monitoring.tracker import status_keeper
from qsearch.spec.study_spec import dump_spec
from qsearch.storage.lock import Owner, study_lock
from qsearch.storage.paths import LOG, STATUS_FILE, STUDY_YAML
from qsearch.storage.study_record import read_study, write_study
from tests.engine.fake_study import of_objective, study_spec
from tests.engine.monitoring.log_lines import Clock

NOW = 1.8e9


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A study that has made two evaluations of four, ten seconds each, and saved neither."""
    (tmp_path / "state").mkdir()
    spec = study_spec(search__stop={"hours": 2})
    (tmp_path / STUDY_YAML).write_text(dump_spec(spec))
    clock, log = Clock(NOW - 40), event_log(tmp_path / LOG)
    keep = status_keeper(tmp_path, spec.search, clock)
    for after, event in (
        (0, Event(EventKind.STARTED, 1, {"rounds": 2})),
        (10, Event(EventKind.EVALUATING_THE_SET, 1, {"total": 4})),
        (10, Event(EventKind.EVALUATED, 1, {"trial": 0, "average_bits": 3.0, "loss": 0.5})),
        (10, Event(EventKind.FAILED, 1, {"trial": 1, "reason": "no memory"})),
    ):
        clock.now += after
        log(event)
        keep(event)
    return tmp_path


@pytest.fixture
def running(directory: Path) -> Iterator[StudyStatus]:
    """Its status three seconds later, while it runs."""
    with study_lock(directory):
        yield study_status(directory, NOW - 7)


def test_a_running_study_says_its_phase_and_how_far_that_is(running: StudyStatus) -> None:
    assert running.phase is not None
    lines = dict(status_lines(running))
    assert lines["phase"] == "round 1: evaluating the set, 2/4, 6.0 a minute"
    assert lines["time spent"] == "33 s of 2 h (search.stop.hours)"
    # Two of ten seconds each are left, and three seconds have passed.
    assert running.phase_seconds_left == pytest.approx(17)
    assert lines["time left"] == "not known yet; this phase about 17 s left, at 08:00 UTC"
    assert f"process {os.getpid()} on" in lines["running"]


@pytest.mark.parametrize(("pace", "text"), [(0.05, "1200 a minute"), (240, "15 an hour")])
def test_a_rate_has_a_unit_that_suits_it(pace: float, text: str, running: StudyStatus) -> None:
    assert running.phase is not None
    phase = running.phase.model_copy(update={"per_minute": 60 / pace})
    assert phase_text(replace(running, phase=phase)).endswith(f", {text}")


def test_what_a_killed_run_left_is_not_what_is_being_done(directory: Path) -> None:
    status = study_status(directory)
    assert (status.running, status.phase, status.seconds_left) == (None, None, None)
    assert (status.completed, status.failed) == (1, 1)
    assert "time left" not in dict(status_lines(status))


def test_the_end_of_a_study_that_may_end_sooner(directory: Path) -> None:
    values = yaml.safe_load((directory / STUDY_YAML).read_text())
    values["search"]["stop"] = {"tolerance": 0.01}
    (directory / STUDY_YAML).write_text(yaml.safe_dump(values))
    saved = json.loads((directory / STATUS_FILE).read_text()) | {"seconds_left": 63.0}
    (directory / STATUS_FILE).write_text(json.dumps(saved))
    with study_lock(directory):
        status = study_status(directory, NOW - 7)
    assert status.seconds_left == 60
    assert status.end == status.time + timedelta(seconds=60)
    expected = "about 1 min left, at 08:00 UTC, or sooner (search.stop.tolerance)"
    assert time_left_text(status) == expected


def test_many_reasons_of_failures_are_cut_short(running: StudyStatus) -> None:
    failures = {"x" * 200: 3} | {f"reason {number}": 1 for number in range(6)}
    lines = [text for label, text in status_lines(replace(running, failures=failures))
             if label == "failed with"]  # fmt: skip
    assert lines[0] == "x" * 159 + "… (3 ×)"
    assert lines[-1] == "2 other reasons; all are in log.jsonl"
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("kind", "fields", "shown"),
    [
        ("failed", {"trial": 1, "loss": 0.1234567}, "round 1, trial 1, loss 0.123457"),
        ("storage lost", {"reason": "refused"}, "round 1, reason refused"),
    ],
)
def test_the_last_event_is_shown_with_its_fields(
    kind: EventKind, fields: dict[str, Any], shown: str, directory: Path
) -> None:
    event_log(directory / LOG)(Event(EventKind(kind), 1, fields))
    text = dict(status_lines(study_status(directory, NOW)))["last event"]
    assert re.fullmatch(rf"{kind} at 20\S+: {shown}", text)


def test_a_finished_study_has_all_that_its_table_has(finished: Path, tmp_path: Path) -> None:
    status = study_status(finished)
    assert status.name == "fake"
    assert (status.rounds_finished, status.rounds) == (2, 2)
    assert status.finished == "search.rounds: 2 reached"
    assert len(status.hypervolumes) == 2
    assert status.spent_seconds is not None
    evaluated = (finished / LOG).read_text().count('"event": "evaluated"')
    assert (status.completed, status.failed) == (evaluated, 0)
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / STATUS_FILE).unlink()  # As in an archive.
    assert study_status(copy).completed == evaluated


def test_the_version_changes_with_the_results_alone(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    first = study_status(copy).version
    event_log(copy / LOG)(Event(EventKind.RETRY, 1, {"trial": 1}))
    assert study_status(copy).version == first is not None
    os.utime(copy / "trials.parquet", ns=(1, 1))
    assert study_status(copy).version != first


@pytest.mark.parametrize("content", ["", "search: 3", "search: [", "a: !!python/object:x {}"])
def test_without_its_limits_a_study_has_a_status_all_the_same(
    content: str, directory: Path
) -> None:
    (directory / STUDY_YAML).write_text(content)
    status = study_status(directory)
    assert (status.rounds, status.completed) == (None, 1)


def test_an_objective_has_no_rounds(finished: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(finished, tmp_path / "copy")
    write_study(directory, of_objective(read_study(finished)))
    spec = study_spec(search__stop={"evaluations": 40})
    (directory / STUDY_YAML).write_text(dump_spec(spec))
    status = study_status(directory)
    lines = dict(status_lines(status))
    assert (status.rounds_finished, len(status.hypervolumes)) == (None, 1)
    assert lines["hypervolume"] == f"{status.hypervolumes[0]:.4f}"
    assert lines["evaluations"] == f"{status.completed} completed, 0 failed, at most 40 in all"
    assert "round" not in " ".join([*lines, lines["last event"].split("reason")[0]])
    unknown = dict.fromkeys(("done", "total", "per_minute"))
    phase = PhaseStatus(name="starting", round=1, since=status.time, **unknown)
    running = replace(status, phase=phase)
    assert phase_text(running) == f"evaluating, {status.completed}/40"
    assert time_left_text(running) == ""


def test_its_status_leaves_a_directory_as_it_was(directory: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))}
    study_status(directory)
    assert {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))} == before


def test_a_study_whose_process_died_says_which_one(running: StudyStatus) -> None:
    died = replace(running, running=None, died=Owner(process=7, host="node"))
    assert (
        "no; the last owner, process 7 on node since ?, died" in dict(status_lines(died)).values()
    )


def test_json_has_what_docs_list(running: StudyStatus) -> None:
    values = json.loads(json.dumps(running.as_json(), allow_nan=False))
    assert set(values) == {
        "name", "running", "died", "finished", "phase", "rounds_finished", "rounds", "completed",
        "failed", "evaluations", "configurations", "on_front", "hypervolumes", "reference_point",
        "average_bits", "bytes", "spent_seconds", "limit_seconds", "phase_seconds_left",
        "seconds_left", "end", "may_end_sooner", "failures", "last_event", "version", "time",
    }  # fmt: skip
    assert set(values["phase"]) == {"name", "round", "done", "total", "per_minute", "since"}
    assert values["running"]["process"] == os.getpid()
    assert values["failures"] == [{"reason": "no memory", "count": 1}]
    assert values["last_event"]["event"] == "failed"


def test_watching_a_running_study_goes_on_until_it_ends(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = ExitStack()
    running.enter_context(study_lock(directory))

    def end(seconds: float) -> None:
        event_log(directory / LOG)(Event(EventKind.FINISHED, 1, {"reason": "all done"}))
        running.close()

    monkeypatch.setattr("qsearch.cli.watch_commands.time.sleep", end)
    status(directory, json_=True, watch=True)
    first, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["running"]["process"] == os.getpid()
    assert (last["running"], last["finished"]) == (None, "all done")


def test_watching_ends_well_by_an_interrupt(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qsearch.cli.watch_commands.time.sleep", interrupt)
    with study_lock(directory):
        status(directory, json_=True, watch=True)
    assert json.loads(capsys.readouterr().out)["running"]["process"] == os.getpid()
