"""What a reader does with the page, by real clicks and keys in headless Chromium."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from qsearch_reports import write_report

from qsearch.evaluation import Metric
from qsearch.records import best_under

if not os.environ.get("CI"):
    pytest.importorskip("selenium", reason="the dev extra brings selenium")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = pytest.mark.browser

ALLOWED = ("file:", "data:", "blob:", "chrome:", "about:")
POINT_POSITION = """
const plot = document.querySelector(`section.study:not([hidden]) [data-figure="${arguments[0]}"]`);
plot.scrollIntoView({block: "center"});
const box = plot.getBoundingClientRect();
const {xaxis, yaxis, _size: size} = plot._fullLayout;
return [box.left + size.l + xaxis.d2p(arguments[1]), box.top + size.t + yaxis.d2p(arguments[2])];
"""


class Page:
    """The open report, as its reader meets it."""

    def __init__(self, driver, path: Path) -> None:
        self.driver = driver
        driver.get_log("performance")
        driver.get(path.as_uri())
        self.wait(lambda: driver.execute_script("return document.documentElement.dataset.ready"))

    def wait(self, condition):
        return WebDriverWait(self.driver, 20, 0.05).until(lambda _: condition())

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, f"section.study:not([hidden]) {selector}")

    def part(self, name):
        return self.all(f'[data-part="{name}"]')[0]

    def text(self, name):
        return self.part(name).get_property("textContent")

    def mouse(self, kind, at, **button):
        event = {"type": kind, "x": at[0], "y": at[1], "clickCount": 1, **button}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        time.sleep(0.15)

    def hover_point(self, figure, row, value="loss"):
        at = self.driver.execute_script(
            POINT_POSITION, figure, float(row["average_bits"]), float(row[value])
        )
        self.mouse("mouseMoved", at)
        return at

    def click_point(self, figure, row, value="loss"):
        at = self.hover_point(figure, row, value)
        self.mouse("mousePressed", at, button="left", buttons=1)
        self.mouse("mouseReleased", at, button="left")

    def hover_text(self):
        selector = "section.study:not([hidden]) .hoverlayer"
        return self.driver.find_element(By.CSS_SELECTOR, selector).get_property("textContent")

    def heatmap(self):
        return self.driver.execute_script(
            "return arguments[0].data[0].text.map((row) => [...row])", self.part("heatmap")
        )

    def column(self, at):
        return [
            row.find_elements(By.TAG_NAME, "td")[at].text for row in self.all("tbody tr[data-row]")
        ]

    def sort(self, key):
        self.all(f'[data-sort="{key}"]')[0].click()

    def errors(self):
        return [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self):
        events = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(ALLOWED)]


def downloaded(folder: Path, pattern: str) -> str:
    for _ in range(100):
        found = [path for path in folder.glob(pattern) if path.stat().st_size]
        if found:
            return found[0].read_text(encoding="utf-8")
        time.sleep(0.1)
    raise AssertionError(f"no {pattern} among {[path.name for path in folder.iterdir()]}")


def expected_heatmap(record, row, knob):
    configuration = json.loads(row["configuration"])
    blocks = sorted({layer.block for layer in record.layers})
    roles = list(dict.fromkeys(layer.role for layer in record.layers))
    cell = {(layer.role, layer.block): configuration[layer.name][knob] for layer in record.layers}
    return [[str(cell[role, block]) for block in blocks] for role in roles]


def lonely(record):
    """The row of the latest round that no other is near, so that a click can mean only it."""
    latest = record.latest[record.latest["average_bits"] < 4]
    distance = [
        min(
            abs(row["average_bits"] - other["average_bits"]) / 5
            + abs(row["loss"] - other["loss"]) / 0.3
            for _, other in record.latest.iterrows()
            if other["trial"] != row["trial"]
        )
        for _, row in latest.iterrows()
    ]
    return latest.iloc[distance.index(max(distance))]


@pytest.fixture
def page(browser, study, record, tmp_path):
    return Page(browser, write_report([study(record)], tmp_path / "report.html"))


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip), ("1", pytest.fail)])
def test_missing_chromium_skips_at_a_desk_and_fails_in_ci(find_chromium, monkeypatch, ci, outcome):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome.Exception, match="not on PATH"):
        find_chromium()


def test_page_loads_without_console_errors_or_requests(page):
    assert page.errors() == []
    assert page.requests() == []
    assert len(page.all(".js-plotly-plot")) == 5


def test_all_columns_of_the_table_are_in_a_window_of_1400_pixels(page):
    widths = page.driver.execute_script(
        "const scroll = document.querySelector('table.evaluations').parentElement;"
        "return [scroll.scrollWidth, scroll.clientWidth];"
    )
    assert widths[0] <= widths[1]


def test_click_on_a_point_shows_its_heatmap(page, record):
    row = lonely(record)
    page.click_point("loss", row)
    page.wait(lambda: page.text("selected-title") == f"Trial {row['trial']}, round 3")
    page.wait(lambda: page.heatmap() == expected_heatmap(record, row, "bits"))
    assert f"{row['average_bits']:.4f}" in page.text("figures")
    assert page.errors() == []


def test_hover_shows_the_figures_of_a_point(page, record):
    row = lonely(record)
    page.hover_point("loss", row)
    text = page.hover_text()
    assert f"trial {row['trial']}, round 3" in text
    assert f"average bits {row['average_bits']:.4f}" in text
    assert f"loss {row['loss']:.4f} ± {row['standard_error']:.4f}" in text
    assert f"expected loss {row['expected_loss']:.4f} ± 0.0012" in text
    assert f"accuracy {row['metric']:.4f} ± 0.0142" in text


def test_click_on_a_point_of_the_metric_selects_it_in_both_plots(page, record):
    row = lonely(record)
    page.click_point("metric", row, "metric")
    page.wait(lambda: page.text("selected-title") == f"Trial {row['trial']}, round 3")
    ringed = page.driver.execute_script(
        "return [...document.querySelectorAll('[data-figure=loss], [data-figure=metric]')].map("
        "(plot) => plot.data.find((trace) => trace.meta === 'selected').x[0])"
    )
    assert ringed == [row["average_bits"]] * 2


def test_every_knob_can_be_shown_by_keyboard(page, record):
    row = best_under(record, 3.0)
    inputs = page.all('[data-part="knobs"] input')
    assert len(inputs) == 5
    inputs[0].send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.wait(lambda: page.heatmap() == expected_heatmap(record, row, "scale_dtype"))
    assert page.text("legend").count("%") == 3


def test_slider_picks_the_least_expected_loss_at_or_under_the_budget(page, record):
    slider = page.part("slider")
    for keys, budget in (((Keys.ARROW_RIGHT,) * 2, 3.1), ((Keys.ARROW_LEFT,) * 8, 2.7)):
        slider.send_keys(*keys)
        row = best_under(record, budget)
        title = f"Trial {row['trial']}, round 3"
        page.wait(lambda title=title: page.text("selected-title") == title)
        page.wait(lambda row=row: page.heatmap() == expected_heatmap(record, row, "bits"))
        assert f"least expected loss, {row['expected_loss']:.4f} ± 0.0012" in page.text("pick")
        assert f"--bits {budget:g} --json" in page.text("pick-command")
        assert f"--bits {budget:g} --to OUT --format packed" in page.text("export-command")
        assert page.all("tr.selected td")[0].text == str(row["trial"])


def test_something_fits_at_both_ends_of_the_slider(page, record):
    slider = page.part("slider")
    for key, bits in ((Keys.HOME, "min"), (Keys.END, "max")):
        slider.send_keys(key)
        row = best_under(record, float(slider.get_attribute(bits)))
        title = f"Trial {row['trial']}, round 3"
        page.wait(lambda title=title: page.text("selected-title") == title)


def test_table_sorts_by_a_column_both_ways_and_by_keyboard(page, record):
    losses = sorted(f"{loss:.4f}" for loss in record.latest["loss"])
    page.sort("loss")
    assert page.column(3) == losses[:25]
    assert [cell.get_attribute("aria-sort") for cell in page.all("th[aria-sort]")] == ["ascending"]
    page.all('[data-sort="loss"]')[0].send_keys(Keys.ENTER)
    assert page.column(3) == losses[::-1][:25]
    assert [cell.get_attribute("aria-sort") for cell in page.all("th[aria-sort]")] == ["descending"]


def test_table_shows_the_latest_round_all_rounds_or_only_the_front(page, record):
    completed = record.trials[record.trials["status"] == "completed"]
    assert f"of {len(record.latest)}" in page.text("pager")
    Select(page.part("rounds")).select_by_value("all")
    assert f"of {len(completed)}" in page.text("pager")
    page.part("front-only").click()
    assert f"of {completed['on_front'].sum()}" in page.text("pager")


def test_row_of_the_table_shows_its_heatmap(page, record):
    button = page.all("tbody tr[data-row] button")[4]
    trial = int(button.text)
    button.send_keys(Keys.ENTER)
    row = record.latest[record.latest["trial"] == trial].iloc[0]
    page.wait(lambda: page.heatmap() == expected_heatmap(record, row, "bits"))


def test_table_downloads_as_csv_in_the_order_shown(page, record, downloads):
    page.sort("loss")
    page.part("download-csv").click()
    rows = list(csv.DictReader(io.StringIO(downloaded(downloads, "*.csv"))))
    expected = record.latest.sort_values("loss")
    assert [int(row["trial"]) for row in rows] == expected["trial"].tolist()
    assert [float(row["loss"]) for row in rows] == expected["loss"].tolist()
    assert json.loads(rows[0]["configuration"]) == json.loads(expected["configuration"].iloc[0])


def test_table_downloads_as_json(page, record, downloads):
    page.part("download-json").click()
    rows = {row["trial"]: row for row in json.loads(downloaded(downloads, "*.json"))}
    assert len(rows) == len(record.latest)
    for _, row in record.latest.iterrows():
        assert rows[row["trial"]]["average_bits"] == row["average_bits"]
        assert rows[row["trial"]]["seen"] == row["seen"]
        assert rows[row["trial"]]["configuration"] == json.loads(row["configuration"])


def test_selected_configuration_downloads_as_json(page, record, downloads):
    page.part("download-configuration").click()
    row = best_under(record, 3.0)
    text = downloaded(downloads, f"quickstart-trial-{row['trial']}.json")
    assert json.loads(text) == json.loads(row["configuration"])


def test_hostile_names_are_shown_as_text(browser, study, record, tmp_path):
    hostile = '<script>alert(1)</script>"><img src=x onerror=alert(2)><b>x</b> \u202eabc {y} %{x}'
    layers = tuple(
        replace(layer, role=f"{layer.role}{hostile}", name=layer.name) for layer in record.layers
    )
    trials = record.trials.assign(method=hostile)
    trials.loc[trials["status"] == "failed", "reason"] = hostile
    other = replace(
        record,
        name=hostile,
        model=hostile,
        task=hostile,
        metric=Metric("<b>%{x}</b>", "higher"),
        layers=layers,
        trials=trials,
    )
    directories = [study(other), study(record, "b")]
    page = Page(browser, write_report(directories, tmp_path / "report.html"))
    row = lonely(record)
    page.hover_point("loss", row)
    assert "by <script>alert(1)</script>" in page.hover_text()
    assert "<b>%{x}</b>" in page.hover_text()
    page.click_point("loss", row)
    page.wait(lambda: page.text("selected-title") == f"Trial {row['trial']}, round 3")
    assert browser.find_elements(By.CSS_SELECTOR, "img[src=x]") == []
    assert browser.find_elements(By.CSS_SELECTOR, ".js-plotly-plot a[href]") == []
    assert page.all("h1")[0].get_property("textContent") == hostile
    assert hostile in page.text("figures")
    legend = browser.find_element(By.CSS_SELECTOR, '[data-comparison="loss"] .legend')
    assert "<script>alert(1)" in legend.get_property("textContent")
    assert page.errors() == []


def test_several_studies_are_overlaid_and_each_can_be_chosen(
    browser, study, record, make_record, integer_choices, tmp_path
):
    other = make_record(name="other", choices=integer_choices, seed=1)
    path = write_report([study(record), study(other, "b")], tmp_path / "report.html")
    page = Page(browser, path)
    for name in ("loss", "metric", "hypervolume"):
        plot = browser.find_element(By.CSS_SELECTOR, f'[data-comparison="{name}"]')
        assert browser.execute_script("return arguments[0].data.length", plot) == 2
    Select(browser.find_element(By.ID, "study-select")).select_by_value("1")
    row = best_under(other, 3.0)
    page.wait(lambda: page.text("selected-title") == f"Trial {row['trial']}, round 3")
    page.wait(lambda: page.heatmap() == expected_heatmap(other, row, "precision"))
    assert page.errors() == []


@pytest.mark.parametrize("kind", ["empty", "one", "failed"])
def test_page_of_an_unusual_study_loads_without_errors(
    kind, browser, study, make_record, record, only_failures, tmp_path
):
    records = {
        "empty": lambda: make_record(rounds=0),
        "one": lambda: make_record(rounds=1, trials_per_round=1, failed=0),
        "failed": lambda: only_failures(record),
    }
    page = Page(browser, write_report([study(records[kind]())], tmp_path / "report.html"))
    assert page.errors() == []
    assert page.all('[role="status"]')
    if kind == "one":
        assert page.text("selected-title") == "Trial 0, round 0"


def test_page_recolours_when_the_screen_turns_dark(page):
    def colour():
        return page.driver.execute_script(
            "return document.querySelector('[data-figure=loss]')._fullLayout.font.color"
        )

    light = colour()
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.wait(lambda: colour() != light)
    assert page.errors() == []


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_page_never_scrolls_sideways(page, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    time.sleep(0.3)
    overflow = page.driver.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow <= 0


def test_every_control_has_a_name(page):
    unnamed = page.driver.execute_script(
        "return [...document.querySelectorAll('button, input, select')].filter((node) =>"
        " !(node.textContent.trim() || node.ariaLabel || node.labels?.length)).length"
    )
    assert unnamed == 0


def test_keyboard_reaches_the_slider_and_shows_focus(page):
    for _ in range(10):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        active = page.driver.switch_to.active_element
        if active == page.part("slider"):
            break
    assert page.driver.switch_to.active_element == page.part("slider")


def test_how_it_was_made_opens_on_a_click(page):
    digest = "//td[.='384 examples']/following-sibling::td"
    assert not page.driver.find_element(By.XPATH, digest).is_displayed()
    page.all('[data-part="origin"] summary')[0].click()
    assert page.driver.find_element(By.XPATH, digest).text == "d4" * 32
