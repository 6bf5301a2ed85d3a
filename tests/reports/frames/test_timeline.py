"""What a study did when."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports.figures import timeline_figure
from qsearch_reports.frames import phases_frame, points_frame, timeline_frame
from qsearch_reports.frames.clock import log_history, running_minutes
from qsearch_reports.frames.timeline import _OVERLAP, _lanes

from tests.engine.monitoring.log_lines import at
from tests.reports.realistic_studies import make_results


def test_evaluations_end_when_they_were_told_and_begin_as_long_before_as_they_took(results):
    frame = timeline_frame(results)
    completed = frame[frame["status"] == "completed"]
    points = points_frame(results.record)
    assert sorted(completed["row"]) == points.index.tolist()
    minutes = (completed["end"] - completed["start"]).to_numpy()
    assert minutes * 60 == pytest.approx(completed["seconds"].to_numpy())
    assert points.loc[completed["row"], "trial"].tolist() == completed["trial"].tolist()
    failed = frame[frame["status"] == "failed"]
    assert failed[["row", "trial", "reason"]].to_numpy().tolist() == [
        [-1, 118, "loss is nan"],
        [-1, 119, "loss is nan"],
    ]
    assert failed["start"].isna().all()
    assert failed["end"].notna().all()


@pytest.mark.parametrize("workers", [1, 5])
def test_there_are_as_many_lanes_as_evaluations_ran_at_once(workers):
    frame = timeline_frame(make_results(rounds=2, workers=workers, failed=0))
    assert sorted(set(frame["lane"])) == list(range(workers))


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=40).map(
        lambda spans: [(float(start), float(start + length)) for start, length in spans]
    )
)
def test_evaluations_in_a_lane_do_not_overlap_and_no_lane_is_needless(spans):
    start, end = np.array(spans, dtype=float).reshape(-1, 2).T
    lanes = _lanes(start, end)
    for lane in range(max(lanes, default=-1) + 1):
        of_lane = np.flatnonzero(lanes == lane)
        ordered = of_lane[np.argsort(start[of_lane], kind="stable")]
        for before, after in pairwise(ordered):
            assert end[before] <= start[after] + _OVERLAP * (end[after] - start[after]) + 1e-9
    at_once = max((int(((start <= t) & (t <= end)).sum()) for t in start), default=0)
    assert max(lanes, default=-1) + 1 <= at_once


def test_an_evaluation_that_failed_and_was_tried_again_has_a_row_for_each(results):
    first = next(line for line in results.events if line["event"] == "evaluated")
    failure = {**first, "event": "failed", "reason": "out of memory"}
    frame = timeline_frame(replace(results, events=[failure, *results.events]))
    both = frame[(frame["trial"] == first["trial"]) & (frame["round"] == first["round"])]
    assert sorted(both["status"]) == ["completed", "failed"]


def test_what_the_log_lacks_is_listed_without_a_time_and_counted_in_the_figure(results):
    kept = [line for line in results.events if line["event"] != "failed"]
    lacking = replace(results, events=kept)
    frame = timeline_frame(lacking)
    assert frame["end"].isna().sum() == 2
    assert frame[frame["end"].isna()]["lane"].tolist() == [-1, -1]
    figure = timeline_figure(frame, phases_frame(lacking))
    assert "no times in the log for 2 others" in figure.layout.title.subtitle.text


def test_without_a_log_every_evaluation_is_listed_and_the_figure_says_what_is_missing(results):
    silent = replace(results, events=())
    frame = timeline_frame(silent)
    assert len(frame) == len(results.record.trials)
    assert phases_frame(silent).empty
    figure = timeline_figure(frame, phases_frame(silent))
    assert "the log has no times of evaluations" in figure.layout.annotations[0].text


def test_phases_follow_each_other_without_the_time_between_sessions(results):
    frame = phases_frame(results)
    assert (frame["end"] > frame["start"]).all()
    assert (frame["start"].to_numpy()[1:] >= frame["end"].to_numpy()[:-1] - 1e-9).all()
    assert frame["end"].max() < 15
    training = frame[frame["phase"] == "training"]
    assert training["round"].tolist() == [1, 2, 3, 4]
    assert ((training["end"] - training["start"]) * 60).to_numpy() == pytest.approx(34.0)
    assert frame["complete"].all()


def test_minutes_of_running_do_not_count_breaks():
    history, told = log_history(
        [
            at(0, "started"),
            at(60, "evaluating the set", total=2),
            at(120, "evaluated", trial=0, seconds=60.0),
            at(150, "stopped", reason="interrupted"),
            at(3000, "started"),
            at(3030, "evaluating the set", total=1),
            at(3060, "evaluated", trial=1, seconds=30.0),
        ]
    )
    assert told["minutes"].tolist() == pytest.approx([2.0, 3.5])
    first, second = (session.start for session in history.sessions)
    between = first + 1800
    assert running_minutes(history, [first, between, second]) == pytest.approx([0.0, 2.5, 2.5])


def test_bars_know_their_rows_and_failures_are_crosses_with_their_reasons(results):
    frame = timeline_frame(results)
    figure = timeline_figure(frame, phases_frame(results))
    by_part = {}
    for trace in figure.data:
        by_part.setdefault(trace.meta, []).append(trace)
    rows = [
        details[0]
        for part in ("seen", "unseen")
        for trace in by_part[part]
        for details in trace.customdata
        if details[0] >= 0
    ]
    completed = frame[frame["status"] == "completed"]
    assert sorted(rows) == sorted([*completed["row"], *completed["row"]])
    (crosses,) = by_part["failed"]
    assert crosses.marker.symbol == "x"
    assert [details[:2] for details in crosses.customdata] == [[-1, 118], [-1, 119]]
    assert crosses.customdata[0][3] == "loss is nan"
    rounds = {d[0] for trace in by_part["round-phase"] for d in trace.customdata}
    assert rounds == {-1, 1, 2, 3, 4}


@pytest.mark.parametrize("field", ["event", "time", "trial", "round", "seconds", "reason"])
@pytest.mark.parametrize("value", [-1, 10**400, math.nan, None, "half \ud800", ["failed"]])
def test_values_in_a_log_that_nothing_could_have_do_no_harm(field, value, results):
    kinds = ("evaluated", "failed", "trained")
    events = [
        line | {field: value} if line["event"] in kinds else line
        for line in [*results.events[:20], *results.events[-8:]]
    ]
    damaged = replace(results, events=events)
    frame, phases = timeline_frame(damaged), phases_frame(damaged)
    assert len(frame) >= len(results.record.trials)
    assert "Time line" in timeline_figure(frame, phases).to_json()
