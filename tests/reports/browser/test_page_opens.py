"""What a reader meets on the page of one study, by real clicks and keys in headless Chromium."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from qsearch_reports.results import StudyResults
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from qsearch.plugins.evaluation import Metric
from tests.reports.realistic_studies import make_record, with_metric
from tests.reports.report_page import lonely

pytestmark = pytest.mark.browser


def test_page_loads_without_console_errors_or_requests(fresh):
    assert fresh.errors() == []
    keys = [node.get_attribute("data-figure") for node in fresh.all("[data-figure]")]
    for key in keys:
        fresh.figure(key)
    assert keys == [
        *("loss", "metric", "parallel", "marginals", "sensitivity"),
        *("progress", "training", "predictions", "calibration", "timeline"),
    ]
    assert fresh.requests() == []
    assert fresh.errors() == []


def test_hover_shows_the_figures_of_a_point(page, record):
    row = lonely(record)
    page.hover("loss", row.name)
    text = page.hover_text()
    assert f"trial {row['trial']}, round 4" in text
    assert f"average bits {row['average_bits']:.4f}" in text
    assert f"loss {row['loss']:.4f} ± {row['standard_error']:.4f}" in text
    assert f"estimated loss {row['estimated_loss']:.4f} ± 0.0012" in text
    assert f"accuracy {row['metric']:.4f} ± 0.0142" in text


def test_table_sorts_by_a_column_both_ways_and_by_keyboard(page, record):
    losses = sorted(f"{loss:.4f}" for loss in record.latest["loss"])
    page.sort("loss")
    assert page.column("loss") == losses[:25]
    assert [cell.get_attribute("aria-sort") for cell in page.all("th[aria-sort]")] == ["ascending"]
    page.all('[data-sort="loss"]')[0].send_keys(Keys.ENTER)
    assert page.column("loss") == losses[::-1][:25]
    assert [cell.get_attribute("aria-sort") for cell in page.all("th[aria-sort]")] == ["descending"]


def test_table_shows_the_latest_round_all_rounds_or_only_the_front(page, record):
    completed = record.trials[record.trials["status"] == "completed"]
    assert f"of {len(record.latest)}" in page.text("pager")
    Select(page.part("rounds")).select_by_value("all")
    assert f"of {len(completed)}" in page.text("pager")
    page.press(page.part("front-only"))
    assert f"of {completed['on_front'].sum()}" in page.text("pager")


def test_table_downloads_in_the_order_shown(page, record):
    page.sort("loss")
    page.press(page.part("download-csv"))
    rows = list(csv.DictReader(io.StringIO(page.downloaded("*.csv").decode())))
    expected = record.latest.sort_values("loss")
    assert [int(row["trial"]) for row in rows] == expected["trial"].tolist()
    assert [float(row["loss"]) for row in rows] == expected["loss"].tolist()
    assert json.loads(rows[0]["configuration"]) == json.loads(expected["configuration"].iloc[0])
    page.press(page.part("download-json"))
    records = json.loads(page.downloaded("*.json"))
    assert [record["average_bits"] for record in records] == expected["average_bits"].tolist()
    assert records[0]["configuration"] == json.loads(expected["configuration"].iloc[0])


def test_hostile_names_are_shown_as_text(opened):
    record = make_record(rounds=1, trials_per_round=12, failed=0)
    hostile = '<script>alert(1)</script>"><img src=x onerror=alert(2)><b>x</b> \u202eabc {y} %{x}'
    layers = tuple(replace(layer, role=f"{layer.role}{hostile}") for layer in record.layers)
    other = replace(
        with_metric(record, Metric("<b>%{x}</b>", "higher")),
        name=hostile,
        layers=layers,
    )
    other.trials["method"] = hostile
    page = opened(StudyResults(other, "a"))
    row = lonely(record)
    page.hover("loss", row.name)
    assert "by <script>alert(1)</script>" in page.hover_text()
    assert "<b>%{x}</b>" in page.hover_text()
    page.click("loss", row.name)
    page.wait(lambda: page.text("selected-title") == f"Trial {row['trial']}, round 1")
    assert page.driver.find_elements(By.CSS_SELECTOR, "img[src=x]") == []
    assert page.driver.find_elements(By.CSS_SELECTOR, ".js-plotly-plot a[href]") == []
    assert page.all("h1")[0].get_property("textContent") == hostile
    assert hostile in page.text("values")
    assert page.errors() == []
