"""How far a running study is, followed from its events by a fake clock."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.monitoring.events import Event, EventKind, event_log, finite
from qsearch.monitoring.status_file import PhaseStatus, SavedStatus, read_status, write_status
from qsearch.monitoring.tracker import StudyTracker, status_keeper
from qsearch.spec.search_spec import SearchSpec, StopSpec
from qsearch.storage.clock import _FILE, _Time
from qsearch.storage.paths import CLOCK, LOG, STATUS_FILE
from tests.engine.monitoring.log_lines import Clock, odd_lines


@dataclass
class FollowedStudy:
    """A tracker with a clock of its own, which each event moves on first."""

    directory: Path
    search: SearchSpec = field(default_factory=lambda: SearchSpec(rounds=3))
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.tracker = StudyTracker(self.directory, self.search, self.clock)

    def emit(self, kind: EventKind, after: float = 0.0, round: int = 1, **fields: Any) -> None:
        self.clock.now += after
        self.tracker(Event(kind, round, fields))

    @property
    def phase(self) -> PhaseStatus:
        phase = self.tracker.status().phase
        assert phase is not None
        return phase


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path


@pytest.fixture
def study(directory: Path) -> FollowedStudy:
    return FollowedStudy(directory)


# The phase


@pytest.mark.parametrize(
    ("kind", "fields", "name"),
    [
        (EventKind.ROUND_STARTED, {}, "training"),
        (EventKind.TRAINING_CONFIGURATIONS, {"done": 0, "total": 3}, "training configurations"),
        (EventKind.EVALUATING_THE_SET, {"total": 3}, "evaluating the set"),
        (EventKind.SEARCHING, {"done": 0, "total": 3}, "searching"),
        (EventKind.WORKER_LOST, {}, "starting"),
    ],
)
def test_some_events_begin_a_phase(
    kind: EventKind, fields: dict[str, Any], name: str, study: FollowedStudy
) -> None:
    study.emit(kind, round=1, **fields)
    assert (study.phase.name, study.phase.round) == (name, 1)
    assert study.phase.total == fields.get("total")


def test_failures_count_as_done_and_time_without_a_database_does_not_slow_the_pace(
    study: FollowedStudy,
) -> None:
    study.emit(EventKind.EVALUATING_THE_SET, total=9)
    study.emit(EventKind.EVALUATED, after=10, trial=0)
    study.emit(EventKind.STORAGE_BACK, after=600, seconds=600.0)
    study.emit(EventKind.FAILED, after=10, trial=1, reason="no memory")
    assert (study.phase.done, study.phase.total, study.phase.per_minute) == (2, 9, 6.0)


def test_the_pace_of_a_resumed_training_counts_from_its_first_step(study: FollowedStudy) -> None:
    study.emit(EventKind.ROUND_STARTED)
    for step in (501, 502, 503):
        study.emit(EventKind.TRAINING, after=2, step=step, total=900, loss=0.1)
    assert (study.phase.done, study.phase.per_minute) == (503, 30.0)


def test_training_on_workers_counts_on_its_own(study: FollowedStudy) -> None:
    study.emit(EventKind.TRAINING_CONFIGURATIONS, done=2, total=6)
    study.emit(EventKind.TRAINING, step=1, total=80, loss=0.1)
    assert (study.phase.name, study.phase.done, study.phase.total) == ("training", 1, 80)


# Results


def test_failures_are_counted_by_reason_until_they_are_tried_again(study: FollowedStudy) -> None:
    for trial, reason in enumerate(["slow", "no memory", "slow"]):
        study.emit(EventKind.FAILED, trial=trial, reason=reason)
    assert list(study.tracker.status().failures.items()) == [("slow", 2), ("no memory", 1)]
    study.emit(EventKind.RETRYING, trials=[0, 1])
    study.emit(EventKind.EVALUATED, trial=2)
    status = study.tracker.status()
    assert (status.completed, status.failures) == (1, {})


# Time left


def finish_round(study: FollowedStudy, round: int, seconds: float, evaluations: int = 2) -> None:
    for trial in range(evaluations):
        study.emit(EventKind.EVALUATED, round=round, trial=trial)
    study.emit(EventKind.ROUND_FINISHED, after=seconds, round=round)


def test_each_round_that_is_left_takes_the_mean_time_of_those_done(study: FollowedStudy) -> None:
    assert study.tracker.seconds_left() is None
    finish_round(study, 1, 100)
    assert study.tracker.seconds_left() == 200
    study.clock.now += 30
    assert study.tracker.seconds_left() == 170
    study.clock.now += 120  # The second round takes longer than the first.
    assert study.tracker.seconds_left() == 100
    finish_round(study, 2, 50)
    assert study.tracker.seconds_left() == 150
    finish_round(study, 3, 150)
    assert study.tracker.seconds_left() == 0


@pytest.mark.parametrize(
    ("rounds", "stop", "left"),
    [
        (3, {}, 200),
        (3, {"hours": 0.05}, 80),
        (3, {"hours": 0.02}, 0),
        (100_000, {"evaluations": 25}, 150),
        (3, {"evaluations": 1000}, 200),
        (3, {"evaluations": 8}, 0),
        (100_000, {}, 9_999_900),
    ],
)
def test_limits_end_the_estimate(
    rounds: int, stop: dict[str, Any], left: float, directory: Path
) -> None:
    study = FollowedStudy(directory, SearchSpec(rounds=rounds, stop=StopSpec(**stop)))
    finish_round(study, 1, 100, evaluations=10)
    assert study.tracker.seconds_left() == pytest.approx(left)


def test_more_than_ten_years_are_not_foreseen(directory: Path) -> None:
    study = FollowedStudy(directory, SearchSpec(rounds=100_000))
    finish_round(study, 1, 4000)
    assert study.tracker.seconds_left() is None


def test_earlier_sessions_count_but_not_the_break_between(directory: Path) -> None:
    log = event_log(directory / LOG)
    log(Event(EventKind.EVALUATED, 1, {"trial": 0}))
    log(Event(EventKind.FAILED, 1, {"trial": 1, "reason": "slow"}))
    log(Event(EventKind.ROUND_FINISHED, 1))
    _FILE.write(directory / CLOCK, _Time(150.0))
    before = FollowedStudy(directory).tracker.status()
    write_status(directory, before.model_copy(update={"finished_seconds": 100.0}))
    study = FollowedStudy(directory)
    status = study.tracker.status()
    assert (status.completed, status.failures) == (1, {"slow": 1})
    assert (study.phase.name, study.phase.round) == ("starting", 2)
    study.clock.now += 10
    assert study.tracker.spent() == 160
    assert study.tracker.seconds_left() == 140
    (directory / STATUS_FILE).unlink()  # Then all time so far counts as that of finished rounds.
    assert FollowedStudy(directory).tracker.seconds_left() == 300


@given(st.lists(odd_lines, max_size=12))
def test_a_log_that_makes_no_sense_raises_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]]
) -> None:
    directory = tmp_path_factory.mktemp("odd")
    (directory / LOG).write_text("".join(json.dumps(finite(line)) + "\n" for line in lines))
    assert StudyTracker(directory, SearchSpec()).status().completed >= 0


# The file


def test_the_file_is_written_at_each_change_of_phase_and_else_once_a_second(
    directory: Path,
) -> None:
    clock = Clock()
    observe = status_keeper(directory, SearchSpec(), clock)
    seen = []
    for step in range(1, 8):
        observe(Event(EventKind.TRAINING, 1, {"step": step, "total": 9, "loss": 0.1}))
        seen.append(read_saved(directory))
        clock.now += 0.3
    assert [phase.done for phase in seen] == [1, 1, 1, 1, 5, 5, 5]
    observe(Event(EventKind.SEARCHING, 1, {"done": 2, "total": 3}))
    assert read_saved(directory).name == "searching"


def read_saved(directory: Path) -> PhaseStatus:
    saved = read_status(directory)
    assert saved is not None
    assert saved.phase is not None
    return saved.phase


def test_where_the_file_cannot_be_written_nothing_fails(tmp_path: Path) -> None:
    status_keeper(tmp_path / "missing", SearchSpec())(Event(EventKind.ROUND_STARTED, 1))
    assert read_status(tmp_path / "missing") is None


@pytest.mark.parametrize("content", [b"", b'{"time": "2026', b"[3]", b"\xff\xfe", b"{}"])
def test_a_damaged_file_says_nothing(content: bytes, directory: Path) -> None:
    (directory / STATUS_FILE).write_bytes(content)
    assert read_status(directory) is None


@pytest.mark.parametrize("name", ["status.json", ".status.json.new"])
def test_a_link_in_its_place_is_replaced_and_not_followed(name: str, directory: Path) -> None:
    (directory / "mine").write_text("mine")
    (directory / "state" / name).symlink_to(directory / "mine")
    status_keeper(directory, SearchSpec())
    assert (directory / "mine").read_text() == "mine"
    assert isinstance(read_status(directory), SavedStatus)
