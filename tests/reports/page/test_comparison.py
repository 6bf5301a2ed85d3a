"""Several studies against each other: means over seeds, hypervolume, time, and the page."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_reports import frames
from qsearch_reports.figures import fronts_figure
from qsearch_reports.frames.comparison import mean_interval
from qsearch_reports.page import assets
from qsearch_reports.page.comparison import comparison_context
from qsearch_reports.summaries.facts import comparison_words
from scipy import stats

from qsearch.deployment.selection import best_under
from qsearch.plugins.evaluation import Metric
from tests.reports.realistic_studies import (
    make_record,
    objective_results,
    only_failures,
    with_metric,
)
from tests.reports.small_studies import methods_of, names_of, records_of, seeds_of, study_of

HOSTILE = "<script>alert(1)</script>\"'&{y} %{x}<b>\u202eשלום\u202c" + "long " * 60
LOSSES = st.lists(st.floats(0.1, 3), min_size=2, max_size=6)


def test_objectives_are_compared_without_unit_and_their_metric_if_they_share_one():
    accuracy = Metric("accuracy", "higher")
    for metrics, keys in (
        ((None, None), ["loss"]),
        ((accuracy, accuracy), ["loss", "metric"]),
        ((None, accuracy), ["loss"]),
    ):
        studies = [
            objective_results(metric, name=name, seed=seed, trials_per_round=8)
            for seed, (metric, name) in enumerate(zip(metrics, "ab", strict=True))
        ]
        context = comparison_context(studies, ["a", "b"])
        assert [choice.key for choice in context.fronts] == keys
        assert context.fronts[0].figure.layout.yaxis.title.text == "loss"
        assert context.unit == ""
        assert context.by_round is None
        assert all(0 < float(loss) < 0.01 for row in context.by_study for loss in row.losses)
    assert context.incomparable["task metric"] == ["none", "accuracy (higher is better)"]


# Means and intervals over seeds


@given(LOSSES)
def test_interval_of_a_mean_is_students(values):
    mean, low, high = mean_interval(values)
    assert low <= mean <= high
    if np.std(values) > 1e-6:
        expected = stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
        )
        assert (low, high) == pytest.approx(expected)


def test_best_within_a_budget_is_what_pick_takes(record):
    points = frames.latest_points(frames.points_frame(record))
    budgets = [1.0, 2.6, 3.0, 5.0, 9.0]
    best = frames.best_within(points, budgets)
    assert math.isnan(best[0])
    picked = [best_under(record, budget)["estimated_loss"] for budget in budgets[1:]]
    assert best[1:].tolist() == picked


def test_fronts_are_compared_at_few_budgets_that_hold_both_ends():
    records = [make_record(seed=seed, rounds=1, trials_per_round=60) for seed in (0, 1)]
    every = frames.front_budgets(records, 10_000)
    few = frames.front_budgets(records, 7)
    assert len(few) == 7
    assert set(few) <= set(every)
    assert (few[0], few[-1]) == (every[0], every[-1])
    assert frames.front_budgets([make_record(rounds=0)]).size == 0


def test_common_budgets_leave_out_what_buys_no_study_more():
    studies = [study_of([(2.1, 0.9), (3.2, 0.8)]), study_of([(2.2, 0.9), (4.6, 0.8)])]
    assert frames.common_budgets(records_of(studies)) == [2.25, 3.5, 5.0, 6.0]


def test_studies_without_common_budgets_are_shown_at_their_own_ends():
    apart = [study_of([(3, 1)], edges=(2.0, 4.0)), study_of([(6, 1)], edges=(5.0, 7.0))]
    assert frames.common_budgets(records_of(apart)) == [4.0, 7.0]
    assert frames.common_budgets([]) == []


# Hypervolume and time


def test_several_studies_are_measured_from_the_worst_of_their_reference_points(record):
    other = replace(record, reference_point=(1.2, 7.0), average_bits_range=(2.0, 8.0))
    assert frames.common_reference([record, other]) == ((1.2, 7.5), 2.0)
    unknown = replace(record, reference_point=None)
    assert frames.common_reference([unknown]) is None
    assert frames.comparison_frame([unknown], ["a"]).empty


def test_minutes_add_up_over_rounds_and_an_unfinished_round_is_left_out():
    record = make_record(rounds=3, trials_per_round=6)
    running = replace(record, rounds=record.rounds[:2])
    frame = frames.comparison_frame([running], ["a"])
    assert frame["round"].tolist() == [1, 2]
    per_round = [34.0 + entry.evaluate_seconds + 5.2 for entry in running.rounds]
    assert frame["minutes"].tolist() == pytest.approx((np.cumsum(per_round) / 60).tolist())
    first = frames.comparison_frame([replace(record, rounds=())], ["a"])
    assert first["round"].tolist() == [1]
    assert first["minutes"].isna().all()
    times = frames.time_frame([running], ["a"], [3.0, 5.0])
    latest = times[times["round"] == 2]
    assert latest["loss"].tolist() == [
        best_under(running, budget)["estimated_loss"] for budget in (3.0, 5.0)
    ]


def test_methods_and_studies_are_ranked_by_the_hypervolume_of_their_last_round():
    studies = [
        *seeds_of([0.5, 0.6], rank=4),
        *seeds_of([0.3, 0.4], rank=8),
        *seeds_of([0.3], rank=16),
    ]
    names = names_of(studies)
    methods = methods_of(studies)
    by_round = frames.comparison_frame(records_of(studies), names)
    by_study, by_method = frames.hypervolume_table(by_round, names, methods)
    assert by_study["rank"].tolist() == [4, 5, 1, 3, 1]
    assert by_method["rank"].tolist() == [3, 2, 1]
    means = by_study["hypervolume"].to_numpy()[[0, 2]] + by_study["hypervolume"].to_numpy()[[1, 3]]
    assert by_method["mean"].tolist()[:2] == pytest.approx((means / 2).tolist())
    assert by_method["low"].isna().tolist() == [False, False, True]


# Figures


def test_methods_with_seeds_have_a_band_about_their_mean_and_thin_lines():
    studies = [*seeds_of([0.5, 0.6], rank=4), study_of([(3.5, 0.4)], name="one")]
    drawn = comparison_context(studies, names_of(studies)).figures["loss"].data
    by_name = {trace.name: trace for trace in drawn if trace.name}
    assert list(by_name) == ["rank 4", "one"]
    bands = [trace for trace in drawn if trace.fill == "toself"]
    assert [band.meta for band in bands] == ["study-0"]
    edges = [value for value in bands[0].y if value is not None]
    half = mean_interval([0.5, 0.6])[2] - 0.55
    assert (min(edges), max(edges)) == pytest.approx((0.55 - half, 0.55 + half))
    thin = [trace for trace in drawn if trace.line.width == 1]
    assert [value for value in thin[0].y if value is not None] == [0.5, 0.5, 0.6, 0.6]


@pytest.mark.parametrize("half", [0.0, 0.1, 50.0])
def test_axis_of_fronts_holds_all_values_and_no_more_than_as_much_again_for_bands(half):
    ends = {"low": [0.4 - half], "high": [0.4 + half]}
    methods = pd.DataFrame({"method": "a", "budget": [3.0], "mean": [0.4], **ends, "seeds": 2})
    values = {"study": ["one", "two"], "value": [0.3, 0.5]}
    studies = pd.DataFrame({"method": "a", "budget": 3.0, **values})
    low, high = fronts_figure(methods, studies, "loss").layout.yaxis.range
    assert low < 0.3
    assert high > 0.5
    assert high - low <= (0.22 if half <= 0.1 else 0.44) + 1e-9


# The page's part


def render(studies, names=None):
    context = comparison_context(studies, names or names_of(studies))
    for figure in context.figures.values():
        text = figure.to_json()
        assert "NaN" not in text
        assert not re.search(r"<(?!br>|extra>|/extra>)", json.dumps(json.loads(text)))
        assert not any("{y}" in (trace.hovertemplate or "") for trace in figure.data)
    return context, assets.template("comparison.html.j2").render(comparison=context)


def words(html):
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_page_says_which_studies_are_one_method_what_differs_and_what_is_unfinished():
    running = [{"event": "finished"}, {"event": "round", "round": 1}]
    finished = [{"event": "evaluated"}, {"event": "finished", "reason": "search.rounds"}]
    rank_4, rank_8 = seeds_of([0.5, 0.6], rank=4), seeds_of([0.3, 0.4], rank=8)
    strange = replace(study_of([(3, 0.4)], name="strange <b>"), settings=None, events=running)
    studies = [replace(rank_4[0], events=finished), rank_4[1], *rank_8, strange]
    context, html = render(studies)
    assert "5 studies compared 3 methods" in words(html)
    assert "rank 4 0, 1 rank 4 seed 0 rank 4 seed 1" in words(html)
    assert "trainer.rank 4 8" in words(html)
    assert "are not known of strange &lt;b&gt; : each stands by itself" in words(html)
    assert "<strong>Not finished:</strong> <bdi>strange &lt;b&gt;</bdi> (1 round)." in html
    assert any("Not finished" in paragraph for paragraph in comparison_words(studies))
    assert context.by_method[0].hypervolume.count("±") == 1
    assert context.by_method[2].hypervolume.count("±") == 0
    assert "loss 0.9 nats, 7.5 average bits, the worst" in words(html)
    assert "not comparable" not in html


def test_page_says_plainly_that_losses_are_not_comparable_and_draws_them():
    one = study_of([(3, 0.5)])
    metric = Metric("f1", "higher")
    other = replace(one, record=replace(with_metric(one.record, metric), name="b", model="other"))
    context, html = render([one, other])
    assert "Losses of these studies are not comparable:" in html
    assert "b has other" in words(html)
    assert [choice.key for choice in context.fronts] == ["loss"]
    assert len(context.figures["loss"].data) == 2
    assert "Not finished" not in html


@pytest.mark.parametrize("second", ["no trials", "all failed", "one trial", "itself", "apart"])
def test_any_studies_can_be_compared(second, record):
    one = study_of([(3, 0.5), (4, 0.4)], name=HOSTILE)
    other = {
        "no trials": lambda: replace(one, record=make_record(rounds=0)),
        "all failed": lambda: replace(one, record=only_failures(make_record(rounds=1))),
        "one trial": lambda: study_of([(3, 0.5)], name=HOSTILE, seed=1),
        "itself": lambda: one,
        "apart": lambda: study_of([(7, 0.5)], name=HOSTILE, rank=2, edges=(6.5, 8.0)),
    }[second]()
    _, html = render([one, other])
    assert "2 studies compared" in html
    assert "<script>" not in html
    context, _ = render([other, other])
    assert len(context.names) == len(set(context.names)) == 2


def test_a_finished_round_without_a_completed_trial_has_a_hypervolume_of_zero(record):
    failed = record.trials["round"] == 4
    status = record.trials["status"].mask(failed, "failed")
    frame = frames.comparison_frame(
        [replace(record, trials=record.trials.assign(status=status))], ["a"]
    )
    assert frame["round"].tolist() == [1, 2, 3, 4]
    assert frame["hypervolume"].iloc[-1] == 0
    assert (frame["hypervolume"].iloc[:-1] > 0).all()


def test_losses_below_zero_have_no_hypervolume_and_are_compared_all_the_same():
    studies = [study_of([(3, -1.0)], name="a"), study_of([(3, -2.0)], name="b")]
    below = [
        replace(one, record=replace(one.record, reference_point=(-0.9, 7.5))) for one in studies
    ]
    compared = comparison_context(below, names_of(below))
    assert compared.reference is None
    assert [row.losses[-1] for row in compared.by_study] == ["-1.0000", "-2.0000"]
    assert frames.progress_frame(below[0])["hypervolume"].isna().all()
