"""How long a study still takes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.monitoring.eta import TimeLeft, duration_text, left_text, time_left
from qsearch.monitoring.events import Event, read_events
from qsearch.monitoring.history import History, replay
from qsearch.spec.search_spec import ScreeningSpec, SearchSpec, StopSpec
from qsearch.study.run import run_study
from tests.engine.support import study_spec
from tests.engine.told_study import START, ToldStudy, delayed, time_of

seconds = st.floats(0.5, 500)
studies = st.builds(
    ToldStudy,
    rounds=st.integers(1, 4),
    members=st.integers(2, 9),
    candidates=st.integers(0, 4),
    first_training=seconds,
    training=seconds,
    steps=st.integers(1, 6),
    sensitivity=seconds,
    evaluation=seconds,
    workers=st.integers(1, 4),
    search=seconds,
    finishing=seconds,
    limit=st.none() | st.integers(2, 40),
)


def told(lines: list[dict[str, Any]]) -> History:
    history = History()
    for line in lines:
        history.add(line)
    return history


def after(lines: list[dict[str, Any]], count: int, spec: SearchSpec) -> tuple[TimeLeft, float]:
    """The estimate at the time of a line, and the seconds that were really left."""
    now = time_of(lines[count - 1])
    return time_left(spec, told(lines[:count]), now), time_of(lines[-1]) - now


def position(lines: list[dict[str, Any]], kind: str, round: int) -> int:
    """How many lines there are up to the first of a kind in a round."""
    kinds = [(line["event"], line["round"]) for line in lines]
    return kinds.index((kind, round)) + 1


@given(studies)
def test_an_estimate_is_never_negative_nor_less_than_its_phases(study: ToldStudy) -> None:
    lines = list(study.events())
    for count in range(1, len(lines)):
        left, _ = after(lines, count, study.spec)
        assert left.study is None or left.study >= (left.phase or 0.0) >= 0.0


@given(studies)
@settings(max_examples=40)
def test_once_a_round_like_the_rest_is_over_the_estimate_is_right(study: ToldStudy) -> None:
    study = replace(study, workers=1, first_training=study.training, rounds=study.rounds + 1)
    lines = list(study.events())
    begin = position(lines, "round finished", 0)
    for count in range(begin, len(lines)):
        left, truth = after(lines, count, study.spec)
        assert left.study == pytest.approx(truth, abs=1e-3)


@given(studies, st.data())
@settings(max_examples=40)
def test_time_between_two_events_is_taken_off_the_estimate(
    study: ToldStudy, data: st.DataObject
) -> None:
    study = replace(study, workers=1, first_training=study.training, rounds=study.rounds + 1)
    lines = list(study.events())
    begin = position(lines, "round finished", 0)
    count = data.draw(st.integers(begin, len(lines) - 1))
    gap = time_of(lines[count]) - time_of(lines[count - 1])
    passed = gap * data.draw(st.floats(0, 1))
    now = time_of(lines[count - 1]) + passed
    left = time_left(study.spec, told(lines[:count]), now)
    if lines[count - 1]["event"] == "searched" or gap == 0:
        return
    current = told(lines[:count]).current
    assert current is not None
    if current.kind in ("training", "searching", "evaluating the set", "evaluating candidates"):
        assert left.study == pytest.approx(time_of(lines[-1]) - now, abs=1e-3)


@given(studies, st.floats(1, 1e6), st.data())
@settings(max_examples=40)
def test_a_break_between_two_sessions_counts_for_nothing(
    study: ToldStudy, gap: float, data: st.DataObject
) -> None:
    study = replace(study, workers=1, first_training=study.training, rounds=study.rounds + 1)
    lines = list(study.events())
    finished = [line["round"] for line in lines if line["event"] == "round finished"]
    cut = position(lines, "round finished", data.draw(st.sampled_from(finished)))
    again = {**lines[0], "round": lines[cut - 1]["round"] + 1, "time": lines[cut - 1]["time"]}
    ending = data.draw(st.sampled_from(["stopped", "interrupted", None]))
    ended = [{**lines[cut - 1], "event": ending}] if ending else []  # None: it was killed.
    found = ["state damaged"] * data.draw(st.integers(0, 2)) + ([] if ending else ["taken over"])
    opening = [*({**again, "event": kind} for kind in found), again]
    resumed = [*lines[:cut], *ended, *delayed([*opening, *lines[cut:]], gap)]
    for count in range(cut + len(ended) + len(opening), len(resumed)):
        left, truth = after(resumed, count, study.spec)
        assert left.study == pytest.approx(truth, abs=1e-3)
    spent = told(resumed).spent()
    assert spent == pytest.approx(time_of(lines[-1]) - START, abs=1e-3)


@pytest.mark.parametrize("workers", [2, 4])
def test_several_evaluations_at_once_are_as_fast_as_they_come(workers: int) -> None:
    study = ToldStudy(members=24, candidates=8, workers=workers)
    lines = list(study.events())
    for count in range(position(lines, "evaluating the set", 1), len(lines)):
        left, truth = after(lines, count, study.spec)
        # Those that end together are known one by one, for a moment.
        assert left.study == pytest.approx(truth, rel=0.35, abs=workers * study.evaluation)
    for round in (1, 2):
        left, truth = after(lines, position(lines, "round finished", round), study.spec)
        assert left.study == pytest.approx(truth, rel=1e-6)


def test_nothing_is_guessed_before_it_was_seen() -> None:
    study = ToldStudy()
    lines = list(study.events())
    first_search = position(lines, "searching", 0)
    for count in range(1, first_search):
        assert after(lines, count, study.spec)[0].study is None
    assert after(lines, first_search + 1, study.spec)[0].study is not None


def test_without_candidates_the_set_is_enough_to_know() -> None:
    study = ToldStudy(candidates=0)
    lines = list(study.events())
    assert after(lines, position(lines, "evaluating the set", 0), study.spec)[0].study is None
    left, truth = after(lines, position(lines, "evaluated", 0), study.spec)
    # Finishing a round has not been seen: it is taken for short.
    assert left.study == pytest.approx(truth, abs=study.rounds * study.finishing + 1e-3)


def test_training_goes_by_its_steps() -> None:
    study = ToldStudy()
    lines = list(study.events())
    count = position(lines, "training", 0) + 1
    left, _ = after(lines, count, study.spec)
    assert left.phase == pytest.approx(study.first_training * 3 / 5)
    assert left.study is None


def test_a_later_training_is_expected_to_last_as_a_later_one_did() -> None:
    study = ToldStudy(first_training=900.0, training=50.0)
    lines = list(study.events())
    left, truth = after(lines, position(lines, "round finished", 1), study.spec)
    assert left.study == pytest.approx(truth, abs=1e-3)
    left, truth = after(lines, position(lines, "round finished", 0), study.spec)
    assert left.study == pytest.approx(truth + 3 * 850, abs=1e-3)


def test_a_limit_of_evaluations_ends_the_estimate() -> None:
    study = ToldStudy(rounds=9, limit=25)
    lines = list(study.events())
    assert lines[-2]["round"] == 2  # Of nine evaluations each; the last one makes seven.
    for count in range(position(lines, "round finished", 0), len(lines)):
        left, truth = after(lines, count, study.spec)
        assert left.study == pytest.approx(truth, abs=1e-3)


def test_a_limit_of_time_ends_the_estimate() -> None:
    study = ToldStudy(rounds=9)
    lines = list(study.events())
    count = position(lines, "evaluating the set", 2)
    now = time_of(lines[count - 1])
    limited = study.spec.model_copy(update={"stop": StopSpec(hours=1.0)})
    left = time_left(limited, told(lines[:count]), now, spent=3600.0 - 25.0)
    assert left.study == pytest.approx(25.0)
    assert time_left(limited, told(lines[:count]), now, spent=3600.0).study == 0.0


def test_a_training_is_not_cut_short_by_the_limit_of_time() -> None:
    study = ToldStudy()
    lines = list(study.events())
    count = position(lines, "training", 2)
    now = time_of(lines[count - 1])
    limited = study.spec.model_copy(update={"stop": StopSpec(hours=1.0)})
    left = time_left(limited, told(lines[:count]), now, spent=3600.0 - 25.0)
    assert left.study == pytest.approx(study.training * 4 / 5)


def test_nothing_is_guessed_of_more_rounds_than_can_be_foreseen() -> None:
    study = ToldStudy()
    lines = list(study.events())
    count = position(lines, "round finished", 1)

    def left(rounds: int, **stop: float) -> float | None:
        search = study.spec.model_copy(update={"rounds": rounds, "stop": StopSpec(**stop)})
        return time_left(search, told(lines[:count]), time_of(lines[count - 1])).study

    assert left(1001) == pytest.approx(999 * (left(3) or 0.0))
    assert left(100_000) is None
    assert left(100_000, hours=1.0) == pytest.approx(3600 - told(lines[:count]).spent())
    assert left(100_000, evaluations=27) == left(3)


@pytest.mark.parametrize("kind", ["training", "evaluated"])
def test_after_a_clock_was_set_decades_on_nothing_is_guessed(kind: str) -> None:
    study = ToldStudy(members=100, steps=100)
    lines = list(study.events())
    count = position(lines, kind, 0)
    late = [*lines[:count], *delayed([lines[count]], 1e9)]
    assert after(late, count + 1, study.spec)[0] == TimeLeft(None, None)


def test_a_study_that_has_ended_has_no_time_left() -> None:
    study = ToldStudy(rounds=1)
    lines = list(study.events())
    left = time_left(study.spec, told(lines), time_of(lines[-1]))
    assert left == TimeLeft(None, None)


def test_what_a_phase_takes_longer_than_expected_is_no_negative_time() -> None:
    study = ToldStudy()
    lines = list(study.events())
    count = position(lines, "evaluating candidates", 1)
    late = time_of(lines[count - 1]) + 1e5
    assert time_left(study.spec, told(lines[:count]), late).phase == 0.0


def test_time_without_a_database_does_not_slow_the_pace() -> None:
    study = ToldStudy()
    lines = list(study.events())
    cut = position(lines, "evaluated", 1) + 2
    at = lines[cut - 1]
    away = [{**at, "event": "storage lost"}, *delayed([{**at, "event": "storage back"}], 600)]
    away[1]["seconds"] = 600.0
    later = [*lines[:cut], *away, *delayed(lines[cut:], 600)]
    for count in range(cut + 3, len(later)):
        left, truth = after(later, count, study.spec)
        assert left.study == pytest.approx(truth, abs=1e-3)


def test_a_resumed_round_does_not_repeat_what_it_has_done() -> None:
    study = ToldStudy()
    lines = list(study.events())
    cut = position(lines, "evaluated", 1) + 3  # Four of six members are evaluated.
    restart = {**lines[0], "round": 1, "time": lines[cut - 1]["time"]}
    started = {**restart, "event": "round started", "training_set": study.members}
    history = told([*lines[:cut], *delayed([restart, started], 1000)])
    now = time_of(lines[cut - 1]) + 1000
    truth = time_of(lines[-1]) - time_of(lines[cut - 1])
    assert time_left(study.spec, history, now).study == pytest.approx(truth, abs=1e-3)
    rest = {**restart, "event": "evaluating the set", "total": 2}
    history = told([*lines[:cut], *delayed([restart, started, rest], 1000)])
    assert time_left(study.spec, history, now).study == pytest.approx(truth, abs=1e-3)


def test_screening_takes_its_share_of_evaluations_until_it_was_seen() -> None:
    study = ToldStudy(candidates=2)
    screening = ScreeningSpec(one_in=5, factor=3)
    spec = study.spec.model_copy(update={"screening": screening})
    lines = list(study.events())
    cut = position(lines, "searching", 0)
    at = lines[cut - 1]
    search = [{**at, "done": 0, "total": 6}, *delayed([{**at, "done": 3, "total": 6}], 30.0)]
    history = told([*lines[: cut - 1], *search])
    left = time_left(spec, history, time_of(at) + 30.0)
    # Three more at ten seconds each, then six on a fifth of the examples.
    assert left.phase == pytest.approx(30.0 + 6 * study.evaluation / 5)
    screened = {**at, "event": "screening", "done": 0, "total": 6}
    further = delayed([screened, {**screened, "done": 2}], 60.0)
    history = told([*lines[: cut - 1], *search, further[0], *delayed([further[1]], 8.0)])
    assert time_left(spec, history, time_of(at) + 68.0).phase == pytest.approx(4 * 4.0)


def test_the_estimate_of_a_real_study_falls_to_nothing(tmp_path: Path) -> None:
    """End to end: the events of a run, as its log has them, foretell its end."""
    spec = study_spec(
        search__rounds=3, search__keep="all", search__propose="random", trainer__seconds=0.05
    )
    estimates: list[tuple[str, float | None]] = []

    def watch(event: Event) -> None:
        history = replay(read_events(tmp_path / "log.jsonl"), None)
        now = history.sessions[-1].last if history.sessions else START
        estimates.append((event.kind, time_left(spec.search, history, now).study))

    run_study(spec, tmp_path, observer=watch)
    lines = read_events(tmp_path / "log.jsonl")
    ends = [value for kind, value in estimates if kind == "round finished"]
    assert len(ends) == 3
    assert None not in ends
    assert all(earlier > later for earlier, later in pairwise(ends))
    assert ends[-1] == 0.0
    first = next(line for line in lines if line["event"] == "round finished")
    truth = time_of(lines[-1]) - time_of(first)
    assert truth / 4 < ends[0] < truth * 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (720, "12 min"),
        (3599, "1 h"),
        (4320, "1 h 12 min"),
        (86400 * 2, "2 d"),
        (86400 * 3 + 3600 * 4, "3 d 4 h"),
    ],
)
def test_durations_are_told_in_two_units_at_most(value: float, text: str) -> None:
    assert duration_text(value) == text


def test_an_end_on_another_day_is_told_with_its_date() -> None:
    assert left_text(720, START) == "about 12 min left, at 08:12 UTC"
    assert left_text(86400, START) == "about 24 h left, at 2027-01-16 08:00 UTC"
