"""Pages of studies that have nothing, little, or very much to show."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from qsearch_reports.frames import latest_front
from qsearch_reports.results import StudyResults
from selenium.webdriver.common.keys import Keys

from qsearch.plugins.evaluation import Metric
from tests.reports.chromium import show_as
from tests.reports.realistic_studies import (
    LAYERS,
    OF_TRAINING,
    make_record,
    make_results,
    objective_results,
)

pytestmark = pytest.mark.browser

MANY = 1500


def test_one_evaluation_is_shown_and_said_to_be_the_only_one(opened):
    page = opened(make_results(rounds=1, trials_per_round=1, failed=0))
    assert "Only one evaluation has finished" in page.driver.find_element("id", "main").text
    drawn = {node.get_attribute("data-figure") for node in page.all("[data-figure]")}
    assert {"loss", "metric", "parallel", "training"} <= drawn
    for key in drawn:
        page.figure(key)
    assert page.text("selected-title") == "Trial 0, round 1"
    assert page.errors() == []


def test_a_finished_round_without_a_loss_is_said_while_the_next_one_runs(opened):
    record = make_record(rounds=2, trials_per_round=4, failed=0)
    trials = record.trials.copy()
    trials.loc[trials["round"] == 1, ["status", "reason"]] = "failed", "no memory"
    record = replace(record, rounds=record.rounds[:1], trials=trials)
    page = opened(StudyResults(record, "runs/failed"))
    text = page.driver.find_element("id", "main").text
    assert "No evaluation of the last finished round has a loss" in text
    assert page.errors() == []


def test_very_many_configurations_are_linked_in_all_views(opened):
    """All of one round, as many as one runs in days."""
    many = make_record(rounds=1, trials_per_round=MANY, layers=LAYERS[:6], failed=0)
    page = opened(StudyResults(many, "runs/many"))
    assert f"{MANY:,}" in page.driver.find_element("id", "main").text
    page.part("slider").send_keys(Keys.END)
    page.press(page.part("select-segments"))
    front = int(many.trials["on_front"].sum())
    assert page.selected() == front
    for view in ("loss", "metric", "parallel"):
        assert page.marks(view)[2] == front
    page.press(page.part("clear"))
    assert f"of {MANY:,}" in page.text("pager")
    page.press(page.part("selected-only"))
    assert "no rows" in page.text("pager")
    assert page.errors() == []


@pytest.mark.parametrize("metric", [None, Metric("accuracy", "higher")])
def test_an_objective_is_shown_without_training_in_linked_views(opened, metric):
    study = objective_results(metric, trials_per_round=20)
    page = opened(study)
    show_as(page.driver, scheme="dark")
    page.settle()
    keys = [node.get_attribute("data-figure") for node in page.all("[data-figure]")]
    assert keys == [
        *("loss", *(["metric"] if metric else []), "parallel", "marginals", "sensitivity"),
        *("progress", "predictions", "calibration", "timeline"),
    ]
    page.press(page.part("select-front"))
    front = latest_front(study.record)
    assert page.selected() == len(front)
    for view in set(keys) - {"sensitivity", "calibration"}:
        assert page.marks(view)[2] > 0, view
    assert all("diamond" not in str(trace["marker"]) for trace in page.traces("loss")[1:])
    best = front.iloc[-1]
    page.choose(int(best["trial"]))
    bits = math.ceil(best["average_bits"] * 1e4) / 1e4
    assert page.text("export-command") == (
        "qsearch.quantized(model, qsearch.load_study('runs/quickstart')"
        f".best(bits={bits:g}).configuration)"
    )
    page.press(page.part("pin"))
    dominated = set(study.record.latest["trial"]) - set(front["trial"])
    page.choose(min(dominated))
    assert page.part("export-command").text.startswith("best() returns")
    assert not page.all('[data-copy="export-command"]')[0].is_enabled()
    text = page.driver.find_element("id", "main").text
    assert not OF_TRAINING.search(text)
    assert ("accuracy" in text) == (metric is not None)
    assert page.errors() == []
