"""The part of the page that compares studies, by real clicks and keys in headless Chromium."""

from __future__ import annotations

from dataclasses import replace

import pytest
from qsearch_reports.page.page import render_page
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from qsearch.deployment.selection import best_under
from tests.reports.chromium import show_as
from tests.reports.realistic_studies import INTEGER, make_results
from tests.reports.report_page import expected_heatmap

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>\"'{y} %{x}"


@pytest.fixture(scope="module")
def studies():
    """Two methods with two seeds each, and a study of another model, with other knobs."""
    size = {"rounds": 2, "trials_per_round": 10}
    studies = [
        replace(
            make_results(name=f"{trainer} seed {seed}", seed=seed, quality=quality, **size),
            settings={"seed": seed, "trainer": {"name": trainer}},
        )
        for trainer, quality in (("good", 1.0), ("poor", 3.0))
        for seed in (0, 1)
    ]
    strange = make_results(
        name=HOSTILE, model=HOSTILE, rounds=1, trials_per_round=10, seed=3, choices=INTEGER
    )
    return [*studies, replace(strange, settings=None)]


@pytest.fixture(scope="module")
def page(open_shared, studies, tmp_path_factory):
    path = tmp_path_factory.mktemp("comparison") / "report.html"
    path.write_text(render_page(studies), encoding="utf-8")
    return open_shared(path)


def plot(page, name):
    """Scroll to a plot and return it once it is drawn."""
    node = page.driver.find_element(By.ID, f"comparison-{name}")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
    page.wait(lambda: node.get_attribute("data-drawn"))
    return node


def chooser(page, name):
    return page.driver.find_element(By.CSS_SELECTOR, f"select[data-switch=comparison-{name}]")


def axis(page, node):
    return page.driver.execute_script("return arguments[0].layout.yaxis.title.text", node)


def shown(page, node):
    """Texts of the ticks of a plot's vertical axis, as drawn."""
    ticks = node.find_elements(By.CSS_SELECTOR, ".ytick text")
    return [tick.get_property("textContent") for tick in ticks]


def test_each_selector_changes_its_figure_and_what_is_read_out(page):
    fronts = plot(page, "fronts")
    assert axis(page, fronts) == "loss (nats)"
    chooser(page, "fronts").send_keys(Keys.ARROW_DOWN)
    page.wait(lambda: axis(page, fronts) == "accuracy (higher is better)")
    assert fronts.get_attribute("aria-label").startswith("Pareto fronts of the task metric")

    segments = plot(page, "segments")
    assert shown(page, segments) == ["against poor", f"against {HOSTILE[:25]}…"]
    Select(chooser(page, "segments")).select_by_visible_text("poor")
    page.wait(lambda: shown(page, segments)[0] == "against good")
    assert "by segment of poor against" in segments.get_attribute("aria-label")
    letters = {node.text for node in segments.find_elements(By.CSS_SELECTOR, ".heatmap-label")}
    assert letters <= {"W", "T", "L"}
    assert "L" in letters

    time = plot(page, "time")
    assert axis(page, time) == "hypervolume (normalised)"
    chooser(page, "time").send_keys(Keys.END)
    page.wait(lambda: axis(page, time) == "loss (nats)")
    assert time.get_attribute("aria-label").startswith("Loss at ≤ 7.25 average bits")
    assert page.errors() == []
    assert page.requests() == []


def test_names_are_shown_as_text_and_the_notice_says_what_cannot_be_compared(page):
    notice = page.driver.find_element(By.CSS_SELECTOR, "#comparison .notice").text
    assert "Losses of these studies are not comparable" in notice
    assert HOSTILE in notice
    assert page.driver.find_elements(By.CSS_SELECTOR, "img[src=x]") == []
    legend = plot(page, "fronts").find_elements(By.CSS_SELECTOR, ".legendtext")
    names = [text.get_property("textContent") for text in legend]
    assert names == ["good", "poor", " ".join(HOSTILE.split())]


def test_each_of_the_studies_can_be_chosen(page, studies):
    Select(page.driver.find_element(By.ID, "study-select")).select_by_value("4")
    record = studies[4].record
    row = best_under(record, 3.0)
    page.wait(lambda: page.text("selected-title") == f"Trial {row['trial']}, round 1")
    page.wait(lambda: page.heatmap() == expected_heatmap(record, row, "precision"))
    assert page.errors() == []


def test_figures_follow_the_scheme_and_are_saved_as_shown(page):
    fronts = plot(page, "fronts")
    colours = "return arguments[0].data.map((trace) => [trace.line.color, trace.fillcolor])"
    assert page.driver.execute_script(colours, fronts)[0] == ["#0072B2", "#0072B2"]
    show_as(page.driver, scheme="dark")
    page.wait(lambda: page.driver.execute_script(colours, fronts)[0] == ["#56B4E9", "#56B4E9"])
    chooser(page, "fronts").send_keys(Keys.ARROW_DOWN)
    card = fronts.find_element(By.XPATH, "ancestor::article")
    card.find_element(By.CSS_SELECTOR, "[data-save=svg]").click()
    saved = page.downloaded("comparison-metric.svg").decode()
    assert "accuracy (higher is better)" in saved
