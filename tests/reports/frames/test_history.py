"""Sessions and phases of a study, from its log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports.frames.history import History

from qsearch.monitoring.events import Phase
from tests.engine.monitoring.log_lines import at, odd_lines

ROUND = [
    at(0, "started", rounds=1),
    at(1, "round started", training_set=2),
    at(11, "trained", steps=5, seconds=10.0),
    at(12, "evaluating the set", total=2),
    at(14, "evaluated", trial=0),
    at(16, "failed", trial=1, reason="no memory"),
    at(17, "searching", done=0, total=1),
    at(19, "searched", candidates=1),
    at(19, "evaluating candidates", total=1),
    at(23, "evaluated", trial=2),
    at(23, "finishing the round"),
    at(24, "round finished", next_set=3),
    at(25, "finished", reason="search.rounds: 1 reached"),
]


def replay(lines: Iterable[Mapping[str, Any]]) -> History:
    history = History()
    for line in lines:
        history.add(line)
    return history


def spans(history: History) -> list[tuple[Phase, float | None, bool]]:
    return [
        (span.phase, None if span.end is None else span.end - span.start, span.complete)
        for span in history.phases
    ]


def lengths(history: History) -> list[float]:
    return [session.last - session.start for session in history.sessions]


def test_a_phase_lasts_until_the_next_begins() -> None:
    history = replay(ROUND)
    assert spans(history) == [
        (Phase.STARTING, 0.0, True),
        (Phase.STARTING, 1.0, True),
        (Phase.TRAINING, 11.0, True),
        (Phase.SET, 5.0, True),
        (Phase.SEARCHING, 2.0, True),
        (Phase.CANDIDATES, 4.0, True),
        (Phase.FINISHING, 2.0, True),
    ]
    assert lengths(history) == [25.0]


def test_a_break_ends_the_phase_at_the_last_event_of_its_session() -> None:
    history = replay([*ROUND[:5], at(600, "started"), at(601, "round started")])
    assert (Phase.SET, 2.0, False) in spans(history)
    assert spans(history)[-1] == (Phase.TRAINING, None, False)
    assert lengths(history) == [14.0, 1.0]


def test_a_phase_in_which_the_study_stopped_is_not_complete() -> None:
    assert spans(replay([*ROUND[:4], at(15, "stopped")]))[-1] == (Phase.SET, 3.0, False)


def test_a_phase_whose_work_is_done_is_complete_where_the_study_stops() -> None:
    assert spans(replay([*ROUND[:3], at(15, "stopped")]))[-1] == (Phase.TRAINING, 14.0, True)


def test_a_reference_that_failed_is_not_a_phase_in_which_the_study_stopped() -> None:
    lines = [*ROUND[:3], at(12, "measuring the reference"), at(14, "reference failed")]
    assert spans(replay([*lines, at(15, "stopped")]))[-1] == (Phase.REFERENCE, 3.0, True)


MEASURING = "measuring quantization error"


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (
            [*ROUND[:3], at(100, "environment changed"), at(130, MEASURING), at(151, "started")],
            [11.0, 51.0],
        ),
        ([at(0, MEASURING), at(300, MEASURING)], [0.0, 0.0]),
        ([at(50, "started"), at(20, "round started"), at(10, "trained", steps=1)], [0.0]),
    ],
    ids=["logged before it has started", "killed while it measured", "a clock set back"],
)
def test_sessions_last_from_their_first_event_to_their_last(
    lines: list[dict[str, Any]], seconds: list[float]
) -> None:
    assert lengths(replay(lines)) == seconds


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+23:00"])
def test_a_line_at_a_time_that_utc_lacks_is_passed_over(time: str) -> None:
    assert replay([{**ROUND[0], "time": time}]).sessions == []


@given(st.lists(odd_lines, max_size=12))
def test_a_log_that_makes_no_sense_raises_nothing(lines: list[dict[str, Any]]) -> None:
    assert all(length >= 0 for length in lengths(replay(lines)))
