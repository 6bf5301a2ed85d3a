"""When a study stops by its time, told by a clock that moves at events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.errors import QsearchError
from qsearch.monitoring.events import Event, Observer
from qsearch.storage.clock import Clock, read_seconds
from qsearch.storage.paths import CLOCK
from qsearch.storage.study_record import StudyRecord, read_study
from tests.engine.fake_study import (
    command_here,
    events_of,
    in_child,
    results,
    stopping_at,
    write_study_yaml,
)
from tests.engine.spec.stopping_studies import CHANGES, FIRST_ROUND, die_at, reason, run


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., StudyRecord]:
    """Run the small study with a limit of hours, an hour passing at each event of some kinds."""

    def run_timed(hours: float | None, *kinds: str, stop: Observer | None = None) -> StudyRecord:
        seconds = 1000.0

        def observe(event: Event) -> None:
            nonlocal seconds
            seconds += 3600 * (event.kind in kinds)
            if stop is not None:
                stop(event)

        with monkeypatch.context() as patch:
            patch.setattr("qsearch.storage.clock._now", lambda: seconds)
            return run(tmp_path / "run", observe, hours=hours)

    return run_timed


def hours_kept(directory: Path) -> float:
    """The time that a study has written down."""
    return read_seconds(directory / CLOCK) / 3600


TRIED = ("evaluated", "failed")


def test_time_that_is_up_in_a_set_leaves_the_round_unfinished(
    timed: Callable[..., StudyRecord], unlimited: pd.DataFrame, tmp_path: Path
) -> None:
    record = timed(FIRST_ROUND + 1, *TRIED)
    assert len(record.rounds) == 1
    assert len(record.trials) == FIRST_ROUND + 1
    assert (record.latest["round"] == 1).all()
    assert reason(tmp_path / "run") == "search.stop.hours: 8 reached"
    # Nothing of the round is lost when the study continues.
    timed(None)
    assert_frame_equal(results(tmp_path / "run"), unlimited, check_exact=True)


@pytest.mark.parametrize(
    ("hours", "kinds", "rounds", "trials"),
    [
        (2, TRIED, 0, 2),  # In the first set.
        (6, TRIED, 1, 6),  # Among candidates; the round is finished.
        (1, ("searching",), 1, 5),
        (1, ("round finished",), 1, FIRST_ROUND),
    ],
)
def test_time_that_is_up_ends_the_study_where_it_is(
    hours: int,
    kinds: tuple[str, ...],
    rounds: int,
    trials: int,
    timed: Callable[..., StudyRecord],
    tmp_path: Path,
) -> None:
    record = timed(hours, *kinds)
    assert len(record.rounds) == rounds
    assert list(record.trials["trial"]) == list(range(trials))
    assert len(events_of(tmp_path / "run", "trained")) == 1
    assert events_of(tmp_path / "run", "finished")[-1]["round"] == 1


def test_time_of_all_sessions_adds_up(timed: Callable[..., StudyRecord], tmp_path: Path) -> None:
    timed(2, *TRIED)
    assert len(timed(2, *TRIED).trials) == 2
    assert len(timed(4, *TRIED).trials) == 4
    assert hours_kept(tmp_path / "run") == pytest.approx(4)


def test_killed_session_loses_little_of_its_time(
    timed: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    assert in_child(lambda: timed(None, *TRIED, stop=die_at(4, TRIED))) == 9
    assert hours_kept(tmp_path / "run") == pytest.approx(3)


def test_interrupted_session_loses_none_of_its_time_and_is_not_finished(
    timed: Callable[..., StudyRecord], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        timed(None, "trained", stop=stopping_at("trained", error=KeyboardInterrupt))
    assert hours_kept(tmp_path / "run") == pytest.approx(1)
    output = command_here("status", tmp_path / "run").output
    assert next(x for x in output.splitlines() if x.startswith("finished")).split()[1] == "no"


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"seconds": "x"}'])
def test_damaged_time_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "clock.json").write_text(text)
    with pytest.raises(QsearchError, match=r"clock\.json: damaged: "):
        Clock(tmp_path)


def test_run_and_status_say_why_a_study_is_finished(tmp_path: Path) -> None:
    """Also of one that ended before it had any result."""
    study = write_study_yaml(tmp_path / "my.yaml", **CHANGES, search__stop={"hours": 1e-9})
    for arguments in (["run", study, "--out", tmp_path / "run"], ["status", tmp_path / "run"]):
        done = command_here(*arguments)
        assert done.code == 0, done.errors
        assert "search.stop.hours: 1e-09 reached" in done.output
    assert len(read_study(tmp_path / "run").trials) == 0
