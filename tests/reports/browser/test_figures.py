"""Figures of the page in use: at any width, zoomed, with parts hidden, and by keys alone."""

from __future__ import annotations

import pytest
from qsearch_reports.frames import latest_points, points_frame
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.reports.chromium import show_as

pytestmark = pytest.mark.browser

SHIFT = 8
ASTRAY = """
const plot = arguments[0], box = (node) => node.getBoundingClientRect();
const whole = box(plot), area = plot.querySelector(".bglayer, .cartesianlayer .plot");
const {_size: size, width} = plot._fullLayout, found = [];
if (Math.abs(width - plot.clientWidth) > 1) found.push("size");
const legend = plot.querySelector(".infolayer > .legend");
if (legend && box(legend).bottom > whole.top + size.t + 1) found.push("legend");
for (const title of plot.querySelectorAll(".g-xtitle, .g-ytitle")) {
  const {left, right, top, bottom, width: across} = box(title);
  const isIn = left >= whole.left - 1 && right <= whole.right + 1 &&
    top >= whole.top - 1 && bottom <= whole.bottom + 1;
  if (across && !isIn) found.push(title.textContent);
}
return found;
"""


def test_legends_and_titles_are_in_their_figures_beside_the_plot_at_any_width(page):
    keys = [node.get_attribute("data-figure") for node in page.all("[data-figure]")]
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    for width in (1400, 390, 1100):
        show_as(page.driver, width=width)
        page.settle()
        assert page.driver.execute_script(overflow) <= 0
        for key in keys:
            node = page.figure(key)
            page.wait(lambda node=node: page.driver.execute_script(ASTRAY, node) == [])
    assert page.errors() == []


def test_what_the_legend_hides_has_no_marks_and_stays_hidden_in_other_rounds(page):
    page.part("select-front").click()
    before = page.marks("loss")[2]
    page.figure("loss").find_elements(By.CSS_SELECTOR, ".legendtoggle")[-1].click()
    page.wait(lambda: 0 < page.marks("loss")[2] < before)
    assert page.marks("metric")[2] == before
    page.part("round").send_keys(Keys.ARROW_LEFT)
    page.wait(lambda: page.text("round-text").startswith("Round 3"))
    page.wait(lambda: page.traces("loss")[-1].get("visible") == "legendonly")


def test_a_zoom_stays_over_rounds_and_on_the_dark_screen_until_it_is_reset(page):
    page.press(page.all('[data-part="drag"] input[value="zoom"]')[0])
    whole = page.x_range("loss")
    page.drag_over("loss", (0.1, 0.1), (0.5, 0.8))
    page.wait(lambda: page.x_range("loss") != whole)
    zoomed = page.x_range("loss")
    page.part("round").send_keys(Keys.ARROW_LEFT)
    show_as(page.driver, scheme="dark")
    page.wait(lambda: page.text("round-text").startswith("Round 3"))
    assert page.x_range("loss") == zoomed
    reset = [button for button in page.all("[data-reset]") if button.is_displayed()]
    assert [button.get_attribute("aria-label") for button in reset] == [
        'Reset the zoom of "Loss against size"'
    ]
    reset[0].click()
    page.wait(lambda: page.x_range("loss") == whole)
    assert not reset[0].is_displayed()
    assert page.driver.switch_to.active_element == page.figure("loss")


def test_fronts_are_drawn_against_file_size_when_the_reader_asks(page, results):
    latest = latest_points(points_frame(results.record))
    whole = page.x_range("loss")
    page.all('[data-switch="size"] input[value="bytes"]')[0].click()
    page.wait(lambda: page.x_range("loss") != whole)
    low, high = page.x_range("loss")
    assert low < latest["bytes"].min() < latest["bytes"].max() < high
    low, high = page.x_range("metric")
    assert low < latest["bytes"].min() < latest["bytes"].max() < high
    page.drag_over("loss", (0.02, 0.02), (0.2, 0.98))
    page.wait(lambda: page.selected() > 0)
    page.all('[data-switch="size"] input[value="average_bits"]')[0].click()
    page.wait(lambda: page.x_range("loss") == whole)
    assert page.errors() == []


def test_shift_and_a_drag_add_to_the_selection_and_a_double_click_clears_it(page, results):
    latest = latest_points(points_frame(results.record))
    ends = page.x_range("loss")

    def among(least, most):
        share = (latest["average_bits"] - ends[0]) / (ends[1] - ends[0])
        return int(((share > least) & (share < most)).sum())

    page.drag_over("loss", (0.02, 0.02), (0.2, 0.98))
    page.wait(lambda: page.selected() == among(0.02, 0.2))
    page.drag_over("loss", (0.3, 0.02), (0.5, 0.98), modifiers=SHIFT)
    page.wait(lambda: page.selected() == among(0.02, 0.2) + among(0.3, 0.5))
    # Nothing can be selected among levels of probability: there dragging zooms.
    page.drag_over("calibration", (0.1, 0.1), (0.6, 0.6))
    assert page.selected() == among(0.02, 0.2) + among(0.3, 0.5)
    # Two clicks are one double click however long a busy machine takes; Plotly waits for 300 ms.
    within = "arguments[0]._context.doubleClickDelay = arguments[1]"
    page.driver.execute_script(within, page.figure("loss"), 60_000)
    corner = page.within("loss", 0.97, 0.03)
    for count in (1, 2):
        page.press_at(corner, clickCount=count)
    page.wait(lambda: page.selected() == 0)
    page.driver.execute_script(within, page.figure("loss"), 300)


def test_keys_mark_layers_and_select_what_is_alike_or_was_trained_on(fresh, results):
    heatmap = fresh.part("heatmap")
    heatmap.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    fresh.wait(lambda: fresh.text("layer").startswith("encoder.layer.1.key: bits "))
    heatmap.send_keys(Keys.ENTER)
    fresh.wait(lambda: fresh.selected() > 0)
    fresh.figure("sensitivity").send_keys(Keys.ARROW_RIGHT)
    fresh.wait(lambda: "encoder.layer.1.key" not in fresh.text("layer"))
    node = fresh.figure("training")
    scrolled = fresh.driver.execute_script("return scrollY")
    node.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    trained = set(results.record.rounds[1].training_set) & set(results.record.latest["trial"])
    fresh.wait(lambda: fresh.selected() == len(trained))
    assert fresh.driver.execute_script("return scrollY") == scrolled
    # A figure of all rounds has each trial several times: keys go on within a round.
    for _ in range(3):
        fresh.figure("timeline").send_keys(Keys.ARROW_RIGHT)
    assert fresh.text("selected-title").endswith(", round 4")


def test_the_focus_stays_on_buttons_that_have_done_all_they_can(page):
    clear, pin = page.part("clear"), page.part("pin")
    page.part("select-front").click()
    clear.send_keys(Keys.ENTER)
    assert page.driver.switch_to.active_element == clear
    pin.send_keys(Keys.ENTER)
    assert (page.driver.switch_to.active_element, pin.text) == (pin, "Unpin")
    pin.send_keys(Keys.ENTER)
    assert not page.part("compare").is_displayed()
    page.all('[data-part="pager"] button')[-1].send_keys(Keys.ENTER)
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    assert page.text("pager").startswith("Previous51–75 of")
    boxes = page.all("tbody .select input")
    for box in boxes[:2]:
        box.send_keys(Keys.SPACE)
    page.press(page.part("selected-only"))
    page.all("tbody .select input")[0].send_keys(Keys.SPACE)
    assert page.driver.switch_to.active_element == page.all("tbody .select input")[0]
