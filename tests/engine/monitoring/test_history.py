"""What a log tells of a study's past."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.monitoring.eta import time_left
from qsearch.monitoring.history import BETWEEN, FINISHING, SEARCHING, SET, TRAINING, replay
from qsearch.spec.search_spec import SearchSpec

Line = dict[str, Any]


def at(second: float, event: str, round: int = 0, **fields: Any) -> Line:
    minute, rest = divmod(second, 60)
    time = f"2026-01-01T00:{int(minute):02}:{rest:06.3f}+00:00"
    return {"time": time, "event": event, "round": round, **fields}


ROUND = [
    at(0, "started", rounds=1),
    at(1, "round started", training_set=2),
    at(11, "trained", steps=5, seconds=10.0),
    at(12, "evaluating the set", total=2),
    at(14, "evaluated", trial=0),
    at(16, "failed", trial=1, reason="no memory"),
    at(19, "searched", candidates=1),
    at(19, "evaluating candidates", total=1),
    at(23, "evaluated", trial=2),
    at(24, "round finished", next_set=3),
    at(24, "finished", reason="search.rounds: 1 reached"),
]


def test_a_round_falls_into_its_phases() -> None:
    history = replay(ROUND, None)
    found = [(phase.kind, phase.duration) for phase in history.phases if phase.complete]
    assert found == [
        (TRAINING, 10.0),
        (SET, 4.0),
        (SEARCHING, 3.0),
        ("evaluating candidates", 4.0),
        (FINISHING, 1.0),
    ]
    assert history.current is None
    assert history.results(0) == 3
    assert history.members == {0: 2, 1: 3}


def test_failures_count_by_reason_and_as_done() -> None:
    history = replay(ROUND[:6], None)
    assert history.reasons == {"no memory": 1}
    assert history.current is not None
    assert history.current.kind == SEARCHING  # Both have come, so the set is done.


def test_failures_that_are_tried_again_are_forgotten() -> None:
    again = [at(30, "started"), at(31, "retrying", trials=[1])]
    history = replay([*ROUND[:6], at(17, "stopped", reason="all failed"), *again], None)
    assert history.reasons == {}
    late = replay([*ROUND[:6], *again, at(40, "evaluated", trial=1)], None)
    assert late.completed[0] == {0, 1}


def test_a_break_ends_the_phase_at_the_last_word_of_its_session() -> None:
    history = replay([*ROUND[:5], at(600, "started"), at(601, "round started")], None)
    cut = next(phase for phase in history.phases if phase.kind == SET)
    assert (cut.duration, cut.complete) == (2.0, False)
    assert [session.last - session.start for session in history.sessions] == [14.0, 1.0]


def test_what_is_told_before_a_session_starts_belongs_to_it() -> None:
    opening = [
        at(100, "environment changed", changed=["torch: 2.9 → 2.10"]),
        at(130, "measuring quantization error"),
        at(150, "measured quantization error"),
        at(151, "started"),
    ]
    history = replay([*ROUND[:3], *opening], None)
    assert [session.last - session.start for session in history.sessions] == [11.0, 51.0]


def test_a_session_that_was_killed_while_it_measured_is_another_one() -> None:
    measuring = [at(0, "measuring quantization error"), at(300, "measuring quantization error")]
    assert len(replay(measuring, None).sessions) == 2


def test_a_resumed_training_lasts_as_long_as_its_own_account_says() -> None:
    lines = [*ROUND[:2], at(100, "started"), at(101, "round started", training_set=2)]
    history = replay([*lines, at(105, "trained", steps=9, seconds=30.0)], None)
    assert history.phases[-2].duration == 30.0
    assert history.current is not None
    assert history.current.kind == BETWEEN


@pytest.mark.parametrize(
    ("time", "expected"),
    [(5, (3, 10)), (0.5, (0, None))],
    ids=["within the phase", "before it"],
)
def test_progress_counts_within_its_phase_alone(
    time: float, expected: tuple[int, int | None]
) -> None:
    since = at(2, "")["time"]
    progress = at(time, "training", step=3, total=10, loss=1.0) | {"since": since, "first": 1}
    current = replay(ROUND[:2], progress).current
    assert current is not None
    assert (current.done, current.total) == expected
    assert current.pace == (1.5 if time == 5 else None)


def test_progress_of_a_phase_that_is_over_says_nothing() -> None:
    progress = at(10.9, "training", step=5, total=5, loss=1.0)
    current = replay(ROUND[:3], progress).current
    assert current is not None
    assert current.kind == BETWEEN


def test_screening_counts_on_its_own_within_the_search() -> None:
    lines = [
        *ROUND[:6],
        at(17, "searching", done=0, total=4),
        at(19, "searching", done=2, total=4),
        at(21, "screening", done=0, total=4),
        at(24, "screening", done=1, total=4),
    ]
    current = replay(lines, None).current
    assert current is not None
    assert (current.kind, current.label) == (SEARCHING, "screening")
    assert (current.done, current.total, current.pace) == (1, 4, 3.0)


def test_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    history = replay([at(50, "started"), at(20, "round started"), at(10, "trained", steps=1)], None)
    assert history.spent() == 0.0
    assert all(phase.duration >= 0 for phase in history.phases)


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+23:00"])
def test_a_time_that_utc_lacks_is_none(time: str) -> None:
    assert replay([{**ROUND[0], "time": time}], None).sessions == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
events = st.sampled_from(sorted({line["event"] for line in ROUND} | {"training", "screening"}))
fields = ("trial", "total", "done", "step", "training_set", "next_set", "seconds", "candidates")
odd_lines = st.builds(
    lambda base, odd: base | odd,
    st.builds(at, st.integers(0, 3000), events, st.integers(0, 3)),
    st.dictionaries(st.sampled_from([*fields, "time", "round", "trials", "reason"]), json_values),
)


@given(st.lists(odd_lines, max_size=12))
def test_a_log_that_makes_no_sense_raises_nothing(lines: list[Line]) -> None:
    history = replay(lines, lines[0] if lines else None)
    left = time_left(SearchSpec(), history, now=1.8e9)
    assert left.study is None or left.study >= 0
    assert history.spent() >= 0
    assert all(phase.duration >= 0 for phase in history.phases)
    assert all(isinstance(reason, str) for reason in history.reasons)
