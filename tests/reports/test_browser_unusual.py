"""Pages of studies that have nothing, little, or very much to show."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from qsearch_reports.page.page import render_page
from qsearch_reports.results import StudyResults
from selenium.webdriver.common.keys import Keys

from qsearch.space.layers import LayerSpec
from qsearch.storage.study_record import TRIAL_COLUMNS
from tests.reports.report_page import Page

pytestmark = pytest.mark.browser

MANY = 1500


@pytest.fixture
def opened(browser, tmp_path):
    def open_page(results: StudyResults) -> Page:
        path = tmp_path / "report.html"
        path.write_text(render_page([results]), encoding="utf-8")
        return Page(browser, path)

    return open_page


def test_one_evaluation_is_shown_and_said_to_be_the_only_one(opened, make_results):
    page = opened(make_results(rounds=1, trials_per_round=1, failed=0))
    assert "Only one evaluation has finished" in page.driver.find_element("id", "main").text
    drawn = {node.get_attribute("data-figure") for node in page.all("[data-figure]")}
    assert {"loss", "metric", "parallel", "training"} <= drawn
    for key in drawn:
        page.figure(key)
    assert page.text("selected-title") == "Trial 0, round 1"
    assert page.errors() == []


def test_a_study_of_nothing_but_its_trials_is_shown(opened, record):
    old = replace(
        record,
        rounds=tuple(replace(entry, full_precision=None) for entry in record.rounds),
        trials=record.trials.assign(predicted_loss=np.nan, predicted_loss_std=np.nan),
    )
    page = opened(StudyResults(old, "runs/old"))
    text = page.driver.find_element("id", "main").text
    assert "of the best loss at" in text
    assert "does not say how large its model is" in text
    drawn = [node.get_attribute("data-figure") for node in page.all("[data-figure]")]
    assert not {"predictions", "calibration", "sensitivity", "timeline"} & set(drawn)
    for key in drawn:
        page.figure(key)
    assert page.errors() == []


@pytest.fixture(scope="module")
def many(record):
    """A study of as many configurations as one runs in days; they all are of one round."""
    generator = np.random.default_rng(0)
    layers = tuple(
        LayerSpec(f"blocks.{block}.{role}", role, block, (64, 64))
        for block in range(3)
        for role in ("query", "output")
    )
    choices = record.choices.layer_configurations
    drawn = generator.integers(0, len(choices), (MANY, len(layers)))
    texts = [
        json.dumps({layer.name: dict(choices[at]) for layer, at in zip(layers, row, strict=True)})
        for row in drawn
    ]
    bits = generator.uniform(2.2, 7.2, MANY)
    loss = 0.3 + 0.4 * np.exp(-1.2 * (bits - 2)) + generator.normal(0, 0.01, MANY)
    trials = pd.DataFrame(
        {
            **dict.fromkeys(TRIAL_COLUMNS, np.nan),
            "trial": np.arange(MANY),
            "round": 1,
            "method": "search",
            "average_bits": bits,
            "loss": loss,
            "metric": 0.9 - loss / 3,
            "standard_error": 0.01,
            "metric_standard_error": 0.01,
            "seconds": 1.0,
            "seen": generator.random(MANY) < 0.4,
            "segment": np.clip((bits - 2.25) / 0.25, 0, 19).astype(int),
            "on_front": generator.random(MANY) < 0.02,
            "configuration": texts,
            "status": "completed",
            "reason": "",
        }
    )[list(TRIAL_COLUMNS)]
    return StudyResults(
        replace(record, layers=layers, trials=trials, rounds=record.rounds[:1]), "runs/many"
    )


def test_very_many_configurations_are_linked_in_all_views(opened, many):
    page = opened(many)
    assert f"{MANY:,}" in page.driver.find_element("id", "main").text
    page.part("slider").send_keys(Keys.END)
    page.press(page.part("select-segments"))
    front = int(many.record.trials["on_front"].sum())
    assert page.selected() == front
    for view in ("loss", "metric", "parallel"):
        assert page.marks(view)[2] == front
    area = page.figure("loss").rect
    assert area["width"] > 400
    page.press(page.part("clear"))
    assert f"of {MANY:,}" in page.text("pager")
    page.press(page.part("selected-only"))
    assert "no rows" in page.text("pager")
    assert page.errors() == []
