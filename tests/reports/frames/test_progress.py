"""How the hypervolume grew, result by result."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports.figures import progress_figure
from qsearch_reports.frames import points_frame, progress_frame
from qsearch_reports.frames.progress import GrowingHypervolume

from qsearch.search.pareto import hypervolume, normalised_hypervolume

coarse = st.integers(0, 12).map(lambda n: n / 4)
"""Values of which many are equal."""


@given(st.lists(st.tuples(coarse | st.floats(0, 3), coarse | st.floats(0, 3)), max_size=40))
def test_growing_hypervolume_is_that_of_the_points_so_far(points):
    area = GrowingHypervolume((2.0, 2.5))
    for count, point in enumerate(points, start=1):
        grown = area.add(*point)
        assert grown == pytest.approx(hypervolume(np.array(points[:count]), (2.0, 2.5)), abs=1e-9)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_adds_nothing(loss):
    area = GrowingHypervolume((2.0, 2.0))
    area.add(1.0, 1.0)
    assert area.add(loss, 0.5) == 1.0


def test_each_round_starts_again_and_ends_at_its_own_hypervolume(results):
    frame = progress_frame(results)
    record, points = results.record, points_frame(results.record)
    assert frame["evaluation"].tolist() == list(range(1, len(points) + 1))
    assert sorted(frame["row"]) == points.index.tolist()
    for number, rows in frame.groupby("round"):
        assert rows["hypervolume"].is_monotonic_increasing
        pairs = points[points["round"] == number][["loss", "average_bits"]].to_numpy()
        ideal = (0.0, record.average_bits_range[0])
        whole = normalised_hypervolume(pairs, record.reference_point, ideal)
        assert rows["hypervolume"].iloc[-1] == pytest.approx(whole)


def test_evaluations_are_in_the_order_in_which_the_log_tells_their_results(results):
    told = [(e["round"], e["trial"]) for e in results.events if e["event"] == "evaluated"]
    frame = progress_frame(results)
    assert list(zip(frame["round"], frame["trial"], strict=True)) == told
    assert frame["minutes"].is_monotonic_increasing


def test_what_the_log_lacks_comes_first_in_its_round_without_a_time(results):
    kept = [event for event in results.events if event.get("trial") not in (0, 5)]
    frame = progress_frame(replace(results, events=kept))
    first = frame[frame["round"] == 2].head(2)
    assert first["trial"].tolist() == [0, 5]
    assert first["minutes"].isna().all()
    assert frame["minutes"].notna().sum() == len(frame) - 8


def test_a_trial_evaluated_again_counts_once_when_it_was_last_told(results):
    again = next(event for event in results.events if event["event"] == "evaluated")
    events = [*results.events, {**again, "time": "2026-11-28T09:00:00+00:00"}]
    frame = progress_frame(replace(results, events=events))
    assert len(frame) == len(points_frame(results.record))
    of_round = frame[frame["round"] == again["round"]]
    assert of_round["trial"].iloc[-1] == again["trial"]


def test_without_a_reference_point_the_figure_says_why_there_is_nothing(results):
    unknown = replace(results, record=replace(results.record, reference_point=None))
    frame = progress_frame(unknown)
    assert frame["hypervolume"].isna().all()
    assert "until the first round ends" in progress_figure(frame).layout.annotations[0].text


@pytest.mark.parametrize("by", ["evaluation", "minutes"])
def test_rounds_are_one_line_with_gaps_whose_points_know_their_rows(results, by):
    frame = progress_frame(results)
    (line,) = progress_figure(frame, by).data
    rows = [details[0] for details in line.customdata]
    assert rows.count(-1) == 3
    assert [row for row in rows if row >= 0] == frame["row"].tolist()
    assert all((y is None) == (row == -1) for y, row in zip(line.y, rows, strict=True))


def test_thousands_of_results_are_a_line_without_markers(results):
    frame = progress_frame(results)
    assert progress_figure(frame).data[0].mode == "lines+markers"
    many = frame.loc[frame.index.repeat(10)].reset_index(drop=True)
    assert progress_figure(many).data[0].mode == "lines"
