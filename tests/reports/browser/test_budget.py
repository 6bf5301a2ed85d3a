"""Choosing for a budget, comparing, and taking a configuration away."""

from __future__ import annotations

import io
import json
import shlex

import pytest
import yaml
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from qsearch._sizes import parse_size, readable_size
from qsearch.deployment.budgets import Budget
from qsearch.deployment.selection import best_among, best_under
from tests.reports.chromium import show_as
from tests.reports.report_page import expected_heatmap

pytestmark = pytest.mark.browser


def test_slider_chooses_the_least_estimated_loss_at_or_under_the_budget(page, results):
    record, slider = results.record, page.part("slider")
    for keys, budget in (((Keys.ARROW_RIGHT,) * 2, 3.1), ((Keys.ARROW_LEFT,) * 8, 2.7)):
        slider.send_keys(*keys)
        row = best_under(record, budget)
        title = f"Trial {row['trial']}, round 4"
        page.wait(lambda title=title: page.text("selected-title") == title)
        page.wait(lambda row=row: page.heatmap() == expected_heatmap(record, row, "bits"))
        assert f"least estimated loss, {row['estimated_loss']:.4f} ± 0.0012" in page.text("pick")
        assert f"--bits {budget:g} --json" in page.text("pick-command")
        assert f"--bits {budget:g} --to OUT --format packed" in page.text("export-command")
        assert page.all("tr.chosen td")[1].text == str(row["trial"])


def test_a_budget_in_bytes_chooses_what_the_command_line_would(page, results):
    Select(page.part("unit")).select_by_value("MB")
    number = page.part("budget-number")
    page.fill(number, "56.3")
    option = shlex.split(page.text("export-command"))[3:5]
    assert option[0] == "--bytes"
    limit, unit = parse_size(option[1], "--bytes")
    assert str(Budget("bytes", limit, unit=unit)) == " ".join(option)
    latest = results.record.latest
    row = best_among(latest[latest["bytes"] <= limit])
    page.wait(lambda: page.text("selected-title") == f"Trial {row['trial']}, round 4")
    assert readable_size(row["bytes"]) in page.text("values")


def test_a_budget_typed_is_taken_exactly_as_the_command_line_takes_it(page, results):
    number = page.part("budget-number")
    least = results.record.latest["average_bits"].min()
    for budget in (3.019, float(least), 99):
        page.fill(number, str(budget))
        assert f"--bits {budget} --json" in page.text("pick-command").replace(".0 ", " ")
        row = best_under(results.record, budget)
        page.wait(lambda row=row: page.text("selected-title") == f"Trial {row['trial']}, round 4")
    page.fill(number, "")
    assert number.get_property("value") == page.part("slider").get_attribute("max")


def test_a_budget_in_which_nothing_fits_shows_the_smallest_and_says_so(page, results):
    number = page.part("budget-number")
    for text, told in (("-3", "-3.00"), ("1.5", "1.50"), ("1.234", "1.234")):
        page.fill(number, text)
        assert page.text("pick").startswith(f"None has at most {told} average bits. Trial ")
        assert float(number.get_property("value")) == float(number.get_attribute("min"))
        row = best_under(results.record, float(number.get_attribute("min")))
        assert page.text("selected-title") == f"Trial {row['trial']}, round 4"
    page.part("slider").send_keys(Keys.ARROW_RIGHT)
    page.wait(lambda: "None has" not in page.text("pick"))


def test_commands_are_copied(fresh):
    granted = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    fresh.driver.execute_cdp_cmd("Browser.grantPermissions", granted)
    # A button says for 2.5 seconds what was done; here it says so from then on.
    fresh.driver.execute_script("window.setTimeout = () => 0")
    button = fresh.all('[data-copy="export-command"]')[0]
    button.click()
    fresh.wait(lambda: button.text == "Copied")
    read = fresh.driver.execute_async_script(
        "navigator.clipboard.readText().then(arguments[arguments.length - 1])"
    )
    assert read == fresh.text("export-command")
    fresh.driver.execute_script(
        "navigator.clipboard.writeText = () => Promise.reject(new Error('refused'));"
        "document.execCommand = () => false"
    )
    button = fresh.all('[data-copy="pick-command"]')[0]
    button.click()
    fresh.wait(lambda: button.text == "Selected")
    assert fresh.driver.execute_script("return String(getSelection())") == fresh.text(
        "pick-command"
    )
    assert "cannot be copied" in fresh.text("copied")


def test_the_chosen_configuration_downloads(page, results):
    page.all('[data-configuration="yaml"]')[0].click()
    row = best_under(results.record, 3.0)
    text = page.downloaded(f"quickstart-trial-{row['trial']}.yaml")
    assert yaml.safe_load(text) == json.loads(row["configuration"])


def test_a_pinned_configuration_is_compared_with_the_chosen_one(page, results):
    record = results.record
    pinned, chosen = best_under(record, 3.0), best_under(record, 5.0)
    assert not page.part("compare").is_displayed()
    page.part("pin").click()
    page.choose(int(chosen["trial"]))
    command = f"qsearch export runs/quickstart --trial {chosen['trial']} --to OUT --format packed"
    assert page.text("export-command") == command
    page.wait(lambda: "chosen trial" in page.text("compare-title"))
    assert page.text("compare-title") == (
        f"Pinned trial {pinned['trial']} and chosen trial {chosen['trial']}"
    )
    rows = {
        line.find_element(By.TAG_NAME, "th").text: [
            cell.text for cell in line.find_elements(By.TAG_NAME, "td")
        ]
        for line in page.all('[data-part="compare-rows"] tr')
    }
    difference = chosen["average_bits"] - pinned["average_bits"]
    assert rows["average bits"][2] == f"{difference:+.4f}".replace("-", "−")
    before, after = (json.loads(row["configuration"]) for row in (pinned, chosen))
    differing = sum(before[name]["bits"] != after[name]["bits"] for name in before)
    assert f"bits differs in {differing} of 36 layers" in page.text("compare-text")
    assert page.marks("loss")[:2] == [1, 1]
    page.part("swap").click()
    page.wait(lambda: page.text("compare-title").startswith(f"Pinned trial {chosen['trial']}"))
    page.part("unpin").click()
    assert not page.part("compare").is_displayed()
    assert page.driver.switch_to.active_element == page.part("pin")


def test_a_figure_is_saved_as_png_and_svg(page):
    page.figure("loss")
    save = {button.get_attribute("aria-label"): button for button in page.all("[data-save]")}
    save['Save the figure "Loss against size" as PNG'].click()
    image = Image.open(io.BytesIO(page.downloaded("quickstart-loss.png")))
    assert image.size == (2000, 1120)
    save['Save the figure "Loss against size" as SVG'].click()
    text = page.downloaded("quickstart-loss.svg").decode()
    assert text.startswith("<svg")
    assert "Loss against average bits" in text
    assert page.errors() == []


def test_the_page_prints_with_all_of_its_figures_in_light_colours(page):
    colour = "return arguments[0]._fullLayout.font.color"
    light = page.driver.execute_script(colour, page.figure("loss"))
    show_as(page.driver, scheme="dark")
    page.wait(lambda: page.driver.execute_script(colour, page.figure("loss")) != light)
    page.driver.execute_script(
        "addEventListener('beforeprint', () => {"
        " window.onPaper = document.querySelector('[data-figure=loss]')._fullLayout.font.color })"
    )
    printed = page.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    figures = page.all("[data-figure]")
    assert len(printed["data"]) > 100_000
    assert all(figure.get_attribute("data-drawn") for figure in figures)
    assert page.driver.execute_script("return window.onPaper") == light
    page.wait(lambda: page.driver.execute_script(colour, page.figure("loss")) != light)
    assert page.errors() == []
