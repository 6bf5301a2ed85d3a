"""What the report's tables hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from qsearch_reports import frames

from qsearch.claims.claims import Claim
from qsearch.claims.paired_difference import PairedDifference
from qsearch.claims.study_claims import Claims
from qsearch.deployment.selection import best_under
from qsearch.storage.study_record import RoundRecord
from tests.reports.realistic_studies import make_record, objective_results


def points_of(pairs):
    return pd.DataFrame(pairs, columns=["average_bits", "loss"])


def test_points_hold_completed_evaluations_of_all_rounds_and_no_failed_one(record):
    points = frames.points_frame(record)
    completed = record.trials[record.trials["status"] == "completed"]
    assert len(points) == len(completed)
    assert tuple(points.columns) == frames.POINT_COLUMNS
    assert points["loss"].notna().all()


def test_configurations_are_numbered_in_the_order_in_which_they_appear(record):
    points = frames.points_frame(record)
    first = points.drop_duplicates("configuration")
    assert first["configuration"].tolist() == list(range(len(first)))
    assert (points.groupby("configuration")["trial"].nunique() == 1).all()


def test_seen_is_missing_where_nothing_is_trained():
    results = objective_results()
    record = results.record
    for frame in (
        frames.points_frame(record),
        frames.budget_frame(record, [3.0, 5.0]),
        frames.timeline_frame(results),
        frames.parallel_frame(record),
        frames.predictions_frame(record),
    ):
        assert len(frame)
        assert frame["seen"].isna().all()
    assert [axis.column for axis in frames.parallel_axes(record, frames.parallel_frame(record))][
        -1
    ] == "selection_loss"


def test_overall_front_keeps_what_nothing_cheaper_or_equal_dominates():
    points = points_of([(2.0, 1.0), (3.0, 0.5), (3.0, 0.6), (4.0, 0.5), (5.0, 0.7), (6.0, 0.1)])
    front = frames.front_frame(points)
    assert front[["average_bits", "loss"]].to_numpy().tolist() == [[2, 1], [3, 0.5], [6, 0.1]]


def test_overall_front_of_a_metric_where_higher_is_better_rises():
    points = pd.DataFrame({"average_bits": [2.0, 3.0, 4.0], "metric": [0.7, 0.9, 0.8]})
    assert frames.front_frame(points, "metric", higher=True).index.tolist() == [0, 1]


def test_hypervolume_of_two_boxes_from_a_reference_point():
    """Areas by hand: (4−2)·(1−0.5) + (6−4)·(1−0.25) = 2.5 of 1·(6−2) = 4."""
    points = points_of([(2.0, 0.5), (4.0, 0.25), (5.0, 0.3), (7.0, 0.0), (3.0, 1.5)])
    assert frames.hypervolume(points, (1.0, 6.0), 2.0) == pytest.approx(2.5 / 4)


@pytest.mark.parametrize(("low", "high"), [(2.05, 7.25), (3.0, 3.05)])
def test_study_budgets_lie_in_its_interval_and_end_with_it(low, high, record):
    budgets = frames.study_budgets(replace(record, segment_edges=(low, high)))
    assert budgets == sorted(set(budgets))
    assert all(low < budget for budget in budgets)
    assert budgets[-1] == high


def test_study_budgets_leave_out_what_buys_nothing_more(record):
    best = best_under(record, 4)
    trials = record.trials[record.trials["trial"] == best["trial"]]
    budgets = frames.study_budgets(replace(record, trials=trials))
    assert len(budgets) == 2  # The least that it fits, and the end.


def test_training_losses_are_averaged_down_and_steps_count_over_all_rounds(record):
    losses = tuple(float(value) for value in np.linspace(1, 0, 1000))
    rounds = tuple(RoundRecord(number, (), 0.5, 1, 1, 1, losses) for number in (1, 2))
    frame = frames.training_frame(replace(record, rounds=rounds), points_per_round=10)
    assert len(frame) == 20
    assert frame["step"].iloc[-1] == 2000
    assert frame.groupby("round")["loss"].mean().tolist() == pytest.approx([0.5, 0.5])


def test_failures_are_counted_by_reason(record):
    assert frames.failures_frame(record).to_dict("records") == [
        {"reason": "loss is nan", "count": 2, "trials": "118, 119"}
    ]


def test_headline_names_the_fewest_bits_close_to_the_best_loss(record):
    head = frames.headline(record)
    latest = record.latest
    close = latest[latest["estimated_loss"] <= 1.01 * latest["estimated_loss"].min()]
    assert head.full_precision == record.rounds[-1].full_precision
    assert head.best["estimated_loss"] == latest["estimated_loss"].min()
    assert head.named.equals(head.close_to_best)
    assert head.named["average_bits"] == close["average_bits"].min()
    assert (head.evaluations, head.failed, head.configurations) == (298, 2, 118)


def test_headline_names_what_has_no_measurable_loss_where_that_is_known(record):
    row = record.latest.iloc[3]
    claim = Claim(row, PairedDifference(0.01, 0.01, -0.01, 0.03, 100), 0.3, 14)
    head = frames.headline(record, Claims(claim))
    assert head.named.equals(row)
    assert head.claim == claim


def test_a_loss_without_quantization_that_is_not_finite_is_not_known(record):
    full = replace(record.rounds[-1].full_precision, loss=math.nan)
    last = replace(record.rounds[-1], full_precision=full)
    head = frames.headline(replace(record, rounds=(*record.rounds[:-1], last)))
    assert head.full_precision is None


def test_a_round_that_is_still_running_is_not_the_latest(record):
    running = replace(record, rounds=record.rounds[:-1])
    latest = frames.latest_points(frames.points_frame(running))
    assert set(latest["round"]) == {3}
    assert sorted(latest["trial"]) == sorted(running.latest["trial"])


def test_study_without_trials_has_empty_frames_and_no_best():
    empty = make_record(rounds=0)
    head = frames.headline(empty)
    assert head.best is None
    assert head.hypervolume is None
    assert frames.points_frame(empty).empty
    assert frames.budget_frame(empty, (3.0,))["trial"].isna().all()
    assert frames.study_budgets(empty) == []


@pytest.mark.parametrize("figure", [math.inf, -math.inf, math.nan])
def test_figures_that_are_not_finite_are_not_known(figure, record):
    expected = record.trials["estimated_loss"].mask(record.trials["trial"] == 0, figure)
    points = frames.points_frame(
        replace(record, trials=record.trials.assign(estimated_loss=expected, accuracy=figure))
    )
    assert points["metric"].isna().all()
    odd = points[points["trial"] == 0]
    assert odd["estimated_loss"].isna().all()
    assert odd["selection_loss"].equals(odd["loss"].rename("selection_loss"))


def test_headline_says_of_the_best_itself_whether_its_loss_is_estimated(record):
    expected = record.trials["estimated_loss"].where(record.trials["trial"] == 0)
    loss = record.trials["loss"].mask(record.trials["trial"] == 1, 0.01)
    head = frames.headline(
        replace(record, trials=record.trials.assign(estimated_loss=expected, loss=loss))
    )
    assert head.best["trial"] == 1
    assert not head.is_estimated
