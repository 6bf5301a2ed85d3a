"""Which of two methods is better in each segment, as far as their seeds can tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qsearch_reports import figures, frames
from qsearch_reports.frames.outcomes import unpaired_interval
from scipy import stats

from tests.reports.small_studies import methods_of, records_of, seeds_of, study_of

LOSSES = st.lists(st.floats(0.1, 3), min_size=2, max_size=6)


def outcomes_of(studies, edges=(2.0, 6.0)):
    return frames.outcomes_frame(records_of(studies), methods_of(studies), edges)


@settings(max_examples=5, deadline=None)
@given(st.lists(LOSSES, min_size=2, max_size=3))
def test_each_outcome_is_the_mirror_of_the_other_methods(losses):
    studies = [study for rank, group in enumerate(losses) for study in seeds_of(group, rank=rank)]
    frame = outcomes_of(studies).set_index(["method", "other"])
    mirror = {"win": "loss", "loss": "win", "tie": "tie", "none": "none"}
    for (method, other), row in frame.iterrows():
        back = frame.loc[(other, method)]
        assert back["difference"] == pytest.approx(-row["difference"])
        assert back["low"] == pytest.approx(-row["high"])
        assert back["outcome"] == mirror[row["outcome"]]


def test_same_seeds_are_compared_in_pairs_and_other_seeds_are_not():
    base = [0.3, 0.5, 0.7]
    better = [loss - 0.02 - 0.001 * at for at, loss in enumerate(base)]
    paired = outcomes_of([*seeds_of(base, rank=4), *seeds_of(better, rank=8)])
    assert paired["outcome"].tolist() == ["loss", "win"]
    apart = outcomes_of([*seeds_of(base, rank=4), *seeds_of(better, rank=8, seeds=(7, 8, 9))])
    assert apart["outcome"].tolist() == ["tie", "tie"]


@given(LOSSES, LOSSES)
def test_interval_of_unpaired_seeds_is_welchs(ours, theirs):
    if min(np.std(ours), np.std(theirs)) < 1e-3:
        return
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    difference, low, high = unpaired_interval(np.array(ours), np.array(theirs))
    assert difference == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_single_seed_is_compared_with_where_another_of_several_would_lie():
    _, low, high = unpaired_interval(np.array([0.5]), np.array([0.4, 0.5, 0.6]))
    half = stats.t.ppf(0.975, 2) * 0.1 * math.sqrt(1 + 1 / 3)
    assert (low, high) == pytest.approx((-half, half))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0, 0.3), st.floats(0, 0.3))
def test_single_seeds_tie_within_the_losses_own_uncertainty(a, b, doubt_a, doubt_b):
    studies = [
        study_of([(3, a)], name="a", rank=1, std=doubt_a),
        study_of([(3, b)], name="b", rank=2, std=doubt_b),
    ]
    slack = abs(a - b) - math.hypot(doubt_a, doubt_b)
    if abs(slack) < 1e-9:
        return
    expected = "tie" if slack < 0 else "win" if a < b else "loss"
    assert outcomes_of(studies)["outcome"].iloc[0] == expected


def test_segments_are_compared_within_a_budget_of_their_upper_edge():
    cheap = study_of([(2.5, 0.5)], name="cheap", rank=1)
    dear = study_of([(5.0, 0.3)], name="dear", rank=2)
    frame = outcomes_of([cheap, dear], (2.0, 3.0, 4.0, 6.0))
    ours = frame[frame["method"] == "cheap"]
    assert ours[["lower", "upper"]].to_numpy().tolist() == [[2, 3], [3, 4], [4, 6]]
    assert ours["outcome"].tolist() == ["none", "none", "loss"]
    trace = figures.outcomes_figure(frame, "dear").data[0]
    assert [list(row) for row in trace.text] == [["", "", "W"]]
    assert list(trace.x) == [2.0, 3.0, 4.0, 6.0]
    assert trace.customdata[0][2][0].startswith("win: difference of losses -0.2000")
    counts = frames.outcome_counts(frame).to_dict("records")
    assert counts == [
        {"method": "cheap", "other": "dear", "win": 0, "tie": 0, "loss": 1, "none": 2},
        {"method": "dear", "other": "cheap", "win": 1, "tie": 0, "loss": 0, "none": 2},
    ]


def test_segments_are_the_studies_own_or_divide_what_all_of_them_search():
    own = study_of([(3, 1)], edges=(2.0, 4.0, 6.0)).record
    wider = study_of([(3, 1)], edges=(3.0, 5.0, 7.0, 9.0)).record
    beyond = study_of([(3, 1)], edges=(6.0, 9.0)).record
    assert frames.common_edges([own, own]) == ((2.0, 4.0, 6.0), True)
    assert frames.common_edges([own, wider]) == ((3.0, 4.5, 6.0), False)
    assert frames.common_edges([own, beyond]) == ((), False)
    assert frames.outcome_counts(outcomes_of([], ())).empty


def test_losses_of_unknown_uncertainty_tie():
    studies = [
        study_of([(3, loss)], name=str(loss), rank=rank, std=math.nan)
        for rank, loss in enumerate((0.3, 0.9))
    ]
    for one in studies:
        one.record.trials["standard_error"] = math.nan
    frame = outcomes_of(studies)
    assert set(frame["outcome"]) == {"tie"}
    assert frame["difference"].iloc[0] == pytest.approx(-0.6)
    figure = figures.outcomes_figure(frame, frame["method"].iloc[0])
    assert "nan" not in figure.data[0].customdata[0][0][0]
