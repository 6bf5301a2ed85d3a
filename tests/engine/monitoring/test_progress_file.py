"""The file of progress."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qsearch.monitoring.events import Event, EventKind
from qsearch.monitoring.progress_file import progress_file, read_progress
from qsearch.storage.paths import PROGRESS_FILE
from qsearch.study.run import run_study
from tests.engine.support import study_spec


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path


class Seconds:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int) -> Event:
    return Event(EventKind.TRAINING, 0, {"step": number, "total": 9, "loss": 0.5})


def test_progress_reads_back_with_where_it_began(directory: Path) -> None:
    clock = Seconds()
    observe = progress_file(directory, clock)
    for number in (4, 5, 6):
        observe(step(number))
        clock.now += 1.0
    found = read_progress(directory)
    assert found is not None
    assert (found["event"], found["step"], found["total"]) == ("training", 6, 9)
    assert found["first"] == 4
    assert found["since"] <= found["time"]


def test_it_is_written_once_a_second_at_most(directory: Path) -> None:
    clock = Seconds()
    observe = progress_file(directory, clock)
    for number in range(1, 8):
        observe(step(number))
        clock.now += 0.3
    found = read_progress(directory)
    assert found is not None
    assert found["step"] == 5  # After 0 s and 1.2 s.


def test_a_new_phase_is_written_at_once(directory: Path) -> None:
    observe = progress_file(directory, Seconds())
    observe(step(1))
    observe(Event(EventKind.SEARCHING, 0, {"done": 2, "total": 3}))
    found = read_progress(directory)
    assert found is not None
    assert (found["event"], found["first"]) == ("searching", 2)


def test_what_the_log_has_is_not_written(directory: Path) -> None:
    progress_file(directory)(Event(EventKind.EVALUATED, 0, {"trial": 1}))
    assert read_progress(directory) is None


def test_losses_that_are_no_numbers_are_null(directory: Path) -> None:
    fields = {"step": 1, "total": 2, "loss": float("nan")}
    progress_file(directory)(Event(EventKind.TRAINING, 0, fields))
    text = (directory / PROGRESS_FILE).read_text()
    assert json.loads(text)["loss"] is None
    assert "NaN" not in text


def test_where_it_cannot_be_written_the_study_goes_on(tmp_path: Path) -> None:
    observe = progress_file(tmp_path / "missing")
    observe(step(1))
    assert read_progress(tmp_path / "missing") is None


def test_a_study_keeps_the_last_of_each_phase_that_it_began(tmp_path: Path) -> None:
    observe = progress_file(tmp_path, Seconds())  # Time stands still: only new phases are written.
    phases: list[tuple[str, int]] = []

    def watch(event: Event) -> None:
        observe(event)
        found = read_progress(tmp_path)
        if found and (found["event"], found["round"]) not in phases:
            phases.append((found["event"], found["round"]))

    spec = study_spec(search__initial=4, search__candidates=1, search__propose="random")
    run_study(spec, tmp_path, observer=watch)
    assert phases == [("training", 0), ("searching", 0), ("training", 1), ("searching", 1)]


@pytest.mark.parametrize("content", [b"", b'{"event": "tra', b"[3]", b"\xff\xfe"])
def test_a_damaged_file_is_no_progress(content: bytes, directory: Path) -> None:
    (directory / PROGRESS_FILE).write_bytes(content)
    assert read_progress(directory) is None


@pytest.mark.parametrize("name", ["progress.json", ".progress.json.new"])
def test_a_link_in_its_place_is_replaced_and_not_followed(name: str, directory: Path) -> None:
    (directory / "mine").write_text("mine")
    (directory / "state" / name).symlink_to(directory / "mine")
    progress_file(directory)(step(1))
    assert (directory / "mine").read_text() == "mine"
    found = read_progress(directory)
    assert found is not None
    assert found["step"] == 1
