"""Views that are linked: what is chosen, selected or pinned in one is marked in all."""

from __future__ import annotations

import json

import pytest
from qsearch_reports.frames import front_frame, latest_points, points_frame
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from qsearch.deployment.selection import best_under
from tests.reports.report_page import expected_heatmap

pytestmark = pytest.mark.browser

LINKED = ("loss", "metric", "parallel", "marginals", "progress", "predictions", "timeline")


@pytest.fixture
def points(results):
    return points_frame(results.record)


def on_all_views(results, points):
    """A trial that each view draws: on the overall front, predicted and timed."""
    front = front_frame(latest_points(points), "selection_loss")
    return front[front["predicted_loss"].notna()].iloc[0]


def test_a_choice_in_any_view_is_marked_in_all(page, results, points):
    row = on_all_views(results, points)
    for key in ("loss", "marginals", "predictions"):
        other = points[points["latest"] & (points["trial"] != row["trial"])].iloc[0]
        page.choose(int(other["trial"]))
        page.click(key, row.name)
        page.wait(lambda: page.text("selected-title") == f"Trial {row['trial']}, round 4")
        for view in LINKED:
            assert page.marks(view)[0] > 0, view
    assert page.part("heatmap").is_displayed()
    trial = results.record.latest.set_index("trial", drop=False).loc[row["trial"]]
    page.wait(lambda: page.heatmap() == expected_heatmap(results.record, trial, "bits"))
    assert page.all("tr.chosen")[0].get_attribute("data-row") == str(row.name)
    assert page.errors() == []


def test_a_box_around_points_selects_their_configurations_in_all_views(page, results, points):
    latest = latest_points(points)
    ends = page.x_range("loss")
    page.drag_over("loss", (0.01, 0.01), (0.25, 0.99))
    page.wait(lambda: page.selected() > 0)
    assert page.x_range("loss") == ends
    limit = ends[0] + (ends[1] - ends[0]) / 4
    inside = latest[latest["average_bits"] < limit]
    assert page.selected() == len(inside)
    for view in LINKED:
        assert page.marks(view)[2] > 0, view
    assert page.marks("metric")[2] == len(inside)
    page.part("selected-only").click()
    assert f"of {len(inside)}" in page.text("pager")
    assert {int(t) for t in page.column("trial")} <= set(inside["trial"])
    page.part("clear").click()
    assert page.marks("metric")[2] == 0
    assert page.selected() == 0
    assert page.errors() == []


def test_keys_choose_select_pin_and_clear(page, results, points):
    latest = latest_points(points).sort_values(["average_bits", "configuration"])
    first = best_under(results.record, 3.0)
    place = latest["trial"].tolist().index(first["trial"])
    node = page.figure("loss")
    node.send_keys(Keys.ARROW_RIGHT)
    trial = latest["trial"].iloc[place + 1]
    page.wait(lambda: page.text("selected-title") == f"Trial {trial}, round 4")
    node.send_keys(Keys.ENTER)
    assert page.selected() == 1
    node.send_keys("p")
    node.send_keys(Keys.ARROW_LEFT)
    page.wait(lambda: page.text("selected-title") == f"Trial {first['trial']}, round 4")
    assert page.marks("metric") == [1, 1, 1]
    assert page.part("compare").is_displayed()
    node.send_keys(Keys.ESCAPE)
    assert page.selected() == 0
    assert "Escape" in page.driver.find_element(By.ID, "fronts-0").text


def test_rows_of_the_table_select_and_deselect_by_their_boxes(page, points):
    boxes = page.all("tbody .select input")
    boxes[0].click()
    boxes[3].send_keys(Keys.SPACE)
    assert page.selected() == 2
    assert page.marks("loss")[2] == 2
    assert len(page.all("tr.selected")) == 2
    boxes[0].click()
    assert page.selected() == 1


def test_the_overall_front_and_those_of_segments_are_selected_by_buttons(page, points):
    latest = latest_points(points)
    overall = front_frame(latest, "selection_loss")
    of_segments = latest[latest["on_front"]]
    for button, front in (("select-front", overall), ("select-segments", of_segments)):
        page.part(button).click()
        assert page.selected() == len(front)
        bits, losses = front["average_bits"], front["selection_loss"]
        assert page.text("selection").endswith(
            f" selected: {bits.min():.2f}–{bits.max():.2f} bits,"
            f" estimated loss {losses.min():.4f}–{losses.max():.4f}"
        )
    assert 0 < len(overall) < len(of_segments)


def test_ranges_of_axes_select_what_is_within_all_of_them(page, points):
    latest = latest_points(points)
    page.figure("parallel")
    page.all(".filters summary")[0].click()
    fields = {field.get_attribute("aria-label"): field for field in page.all(".filters input")}
    page.fill(fields["Most average bits"], "4")
    page.wait(lambda: page.selected() == (latest["average_bits"] <= 4).sum())
    name = next(label for label in fields if label.startswith("Most") and "loss" in label)
    limit = float(latest["selection_loss"].median())
    page.fill(fields[name], str(limit))
    both = latest[(latest["average_bits"] <= 4) & (latest["selection_loss"] <= limit)]
    page.wait(lambda: page.selected() == len(both))
    assert page.marks("parallel")[2] == len(both)
    page.part("clear").click()
    assert fields["Most average bits"].get_property("value") != "4"


def test_a_click_on_a_layer_selects_the_configurations_that_treat_it_alike(page, results, points):
    at = page.driver.execute_script(
        "arguments[0].scrollIntoView({block: 'center'});"
        "const {_size: size, xaxis, yaxis} = arguments[0]._fullLayout;"
        "const box = arguments[0].getBoundingClientRect();"
        "return [box.left + size.l + xaxis.c2p(2), box.top + size.t + yaxis.c2p(4)]",
        page.part("heatmap"),
    )
    page.mouse("mouseMoved", at)
    page.press_at(at)
    page.wait(lambda: page.selected() > 0)
    latest, name = results.record.latest, "encoder.layer.2.intermediate"
    bits = latest["configuration"].map(lambda text: json.loads(text)[name]["bits"])
    chosen = best_under(results.record, 3.0)
    assert page.selected() == (bits == json.loads(chosen["configuration"])[name]["bits"]).sum()
    assert page.all('[data-part="heatmap"] .marks .layer')
    node = page.figure("sensitivity")
    assert node.find_elements(By.CSS_SELECTOR, ".marks .layer")


def test_a_click_on_a_round_of_the_training_loss_selects_its_training_set(page, results, points):
    node = page.figure("training")
    at = page.driver.execute_script(
        "const plot = arguments[0], trace = plot.data[1], layout = plot._fullLayout;"
        "const middle = Math.floor(trace.x.length / 2);"
        "const box = plot.getBoundingClientRect();"
        "return [box.left + layout._size.l + layout.xaxis.d2p(trace.x[middle]),"
        " box.top + layout._size.t + layout.yaxis.d2p(trace.y[middle])]",
        node,
    )
    page.mouse("mouseMoved", at)
    page.wait(
        lambda: (
            "round 2"
            in node.find_element(By.CSS_SELECTOR, ".hoverlayer").get_property("textContent")
        )
    )
    page.press_at(at)
    trained = set(results.record.rounds[1].training_set)
    completed = set(points[points["latest"]]["trial"])
    page.wait(lambda: page.selected() == len(trained & completed))


def test_the_round_slider_and_its_animation_show_how_the_front_grew(page, results, points):
    def drawn():
        rows = [d[0] for t in page.traces("loss") if "customdata" in t for d in t["customdata"]]
        return {int(points["round"][row]) for row in rows}, len(rows)

    assert drawn() == ({4}, (points["round"] == 4).sum())
    before = page.x_range("loss")
    page.part("round").send_keys(Keys.HOME)
    page.wait(lambda: drawn() == ({1}, (points["round"] == 1).sum()))
    assert f"Round 1: {(points['round'] == 1).sum()} configurations" in page.text("round-text")
    assert page.marks("loss")[0] == 0, "the chosen one is of round 4 alone"
    assert page.x_range("loss") == before
    page.part("play-rounds").click()
    page.wait(lambda: page.text("round-text").startswith("Round 4"))
    page.wait(lambda: page.text("play-rounds") == "Play")
    assert drawn()[0] == {4}
    assert page.errors() == []


def test_figures_follow_the_knob_and_the_switch(page, results):
    page.figure("marginals")
    page.press(page.all('[data-part="knobs"] label')[2])
    page.wait(lambda: len(page.traces("marginals")) == 3)
    page.figure("progress")
    page.press(page.all('[data-switch="progress"] label')[1])
    title = "return arguments[0].layout.xaxis.title.text"
    page.wait(lambda: "minute" in page.driver.execute_script(title, page.figure("progress")))
    page.press(page.all('[data-switch="progress"] label')[2])
    page.wait(lambda: "round" in page.driver.execute_script(title, page.figure("progress")))


def test_shift_and_a_click_add_to_the_selection(page, results, points):
    row = on_all_views(results, points)
    page.click("loss", row.name, modifiers=8)
    page.wait(lambda: page.selected() == 1)
    assert page.text("selected-title") != f"Trial {row['trial']}, round 4"


def test_a_drag_over_an_axis_of_the_parallel_coordinates_selects_what_passes_there(page, points):
    latest = latest_points(points)
    least, most = latest["average_bits"].idxmin(), latest["average_bits"].idxmax()
    low, high = page.position("parallel", least), page.position("parallel", most)
    middle = (low[1] + high[1]) / 2
    page.drag([low[0] - 12, middle], [low[0] + 12, low[1] + 8])
    page.wait(lambda: page.selected() > 0)
    half = (latest["average_bits"].min() + latest["average_bits"].max()) / 2
    assert abs(page.selected() - (latest["average_bits"] < half).sum()) <= 2
