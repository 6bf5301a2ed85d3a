"""The open report, as its reader meets it in Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qsearch_reports.frames import latest_points, points_frame
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from qsearch.storage.study_record import StudyRecord
from tests.reports.chromium import PATIENCE, allow_downloads

ALLOWED = ("file:", "data:", "blob:", "chrome:", "about:")
SECTION = "section.study:not([hidden])"
POSITION = """
const [plot, row, curve] = arguments;
const {_fullLayout: layout} = plot;
const at = (trace) => trace.customdata?.findIndex((details) => details?.[0] === row) ?? -1;
const drawn = (found, number) => at(found) >= 0 && (curve === null || curve === number);
const trace = plot.data.find(drawn);
const axis = (name) => layout[`${name[0]}axis${name.slice(1)}`];
const box = plot.getBoundingClientRect();
const x = axis(trace.xaxis ?? "x").d2p(trace.x[at(trace)]);
const y = axis(trace.yaxis ?? "y").d2p(trace.y[at(trace)]);
return [box.left + layout._size.l + x, box.top + layout._size.t + y];
"""


SETTLED = """
const colour = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
return [...document.querySelectorAll(".plot[data-drawn]")].every((plot) => {
  const {width, font} = plot._fullLayout;
  return !plot.clientWidth || (Math.abs(width - plot.clientWidth) < 1 && font.color === colour);
});
"""
AREA = """
const {_size: size} = arguments[0]._fullLayout;
const box = arguments[0].getBoundingClientRect();
return [box.left + size.l, box.top + size.t, size.w, size.h];
"""
HOVERED = """
return arguments[0]._hoverdata?.some(({customdata: details}) => details?.[0] === arguments[1]);
"""
FRAMES = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
RESET = """
restore(arguments[0]);
for (const slider of document.querySelectorAll("[data-part='round']")) {
  slider.value = slider.max;
  slider.dispatchEvent(new Event("input"));
}
for (const plot of document.querySelectorAll(".plot[data-drawn]")) {
  const isHidden = ({visible}) => visible === "legendonly";
  if (plot.data.some(isHidden)) Plotly.restyle(plot, {visible: true});
}
for (const button of document.querySelectorAll("[data-reset]:not([hidden])")) button.click();
for (const node of document.querySelectorAll("details")) node.open = false;
scrollTo(0, 0);
document.activeElement.blur();
"""


class Page:
    """An open report, or the index of studies."""

    def __init__(self, driver: Any, path: Path, downloads: Path | None = None) -> None:
        self.driver = driver
        self.tab = driver.current_window_handle
        self.downloads = downloads
        driver.get_log("performance")
        driver.get(path.as_uri())
        self.wait(lambda: driver.execute_script("return document.documentElement.dataset.ready"))
        self.initial = driver.execute_script("return window.kept?.()")

    def reset(self) -> None:
        """Bring the page back to what a reader first sees, save for a marked layer."""
        self.driver.switch_to.window(self.tab)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_script(RESET, self.initial)
        self.driver.execute_async_script(FRAMES)
        self.wait(lambda: not self.all("[data-reset]:not([hidden])"))
        self.settle()
        self.errors()
        if self.downloads is not None:
            # Another tab's folder takes the downloads of all tabs.
            allow_downloads(self.driver, self.downloads)
            for path in self.downloads.iterdir():
                path.unlink()

    def settle(self) -> None:
        """Wait until all drawn figures have the page's width and colours."""
        self.wait(lambda: self.driver.execute_script(SETTLED))

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, PATIENCE, 0.03).until(lambda _: condition())

    def all(self, selector: str) -> Any:
        return self.driver.find_elements(By.CSS_SELECTOR, f"{SECTION} {selector}")

    def part(self, name: str) -> Any:
        return self.all(f'[data-part="{name}"]')[0]

    def text(self, name: str) -> str:
        return str(self.part(name).get_property("textContent"))

    def figure(self, key: str) -> Any:
        """Scroll to a figure and return it once it is drawn."""
        node = self.all(f'[data-figure="{key}"]')[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
        self.wait(lambda: node.get_attribute("data-drawn"))
        return node

    def traces(self, key: str) -> Any:
        """Return what a figure draws."""
        script = "return JSON.parse(JSON.stringify(arguments[0].data))"
        return self.driver.execute_script(script, self.figure(key))

    def marks(self, key: str) -> list[int]:
        """Return how many marks a figure has: of what is chosen, pinned, selected."""
        return [int(count) for count in (self.figure(key).get_attribute("data-marked")).split()]

    def position(self, key: str, row: int, curve: int | None = None) -> Any:
        """Return where a row's point is on the screen."""
        return self.driver.execute_script(POSITION, self.figure(key), int(row), curve)

    def mouse(self, kind: str, at: list[float], **button: Any) -> None:
        event = {"type": kind, "x": at[0], "y": at[1], "clickCount": 1, **button}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        self.driver.execute_async_script(FRAMES)

    def hover(self, key: str, row: int) -> list[float]:
        at = self.position(key, row)
        self.mouse("mouseMoved", at)
        self.wait(lambda: self.driver.execute_script(HOVERED, self.figure(key), int(row)))
        return at

    def click(self, key: str, row: int, **button: Any) -> None:
        self.press_at(self.hover(key, row), **button)

    def press_at(self, at: list[float], **button: Any) -> None:
        self.mouse("mousePressed", at, button="left", buttons=1, **button)
        self.mouse("mouseReleased", at, button="left", **button)

    def within(self, key: str, across: float, down: float) -> list[float]:
        """Return where a place of a figure's plot is, as shares of its width and height."""
        left, top, width, height = self.driver.execute_script(AREA, self.figure(key))
        return [left + across * width, top + down * height]

    def drag_over(
        self, key: str, start: tuple[float, float], end: tuple[float, float], modifiers: int = 0
    ) -> None:
        """Drag from one place of a figure's plot to another."""
        self.drag(self.within(key, *start), self.within(key, *end), modifiers)

    def drag(self, first: list[float], last: list[float], modifiers: int = 0) -> None:
        self.mouse("mouseMoved", first)
        self.mouse("mousePressed", first, button="left", buttons=1, modifiers=modifiers)
        for share in (0.4, 1.0):
            at = [a + share * (b - a) for a, b in zip(first, last, strict=True)]
            self.mouse("mouseMoved", at, button="left", buttons=1, modifiers=modifiers)
        self.mouse("mouseReleased", last, button="left", modifiers=modifiers)

    def x_range(self, key: str) -> Any:
        script = "return arguments[0]._fullLayout.xaxis.range"
        return self.driver.execute_script(script, self.figure(key))

    def hover_text(self) -> str:
        node = self.driver.find_element(By.CSS_SELECTOR, f"{SECTION} .hoverlayer")
        return str(node.get_property("textContent"))

    def press(self, node: Any) -> None:
        """Click on an element, in the middle of the screen, where nothing covers it."""
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
        node.click()

    def fill(self, field: Any, text: str) -> None:
        """Type a text instead of what a field holds, and leave it."""
        field.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE, text, Keys.TAB)

    def choose(self, trial: int) -> None:
        """Choose a trial in the table, which shows all rows then on one page or another."""
        while not (found := self.all(f'button[aria-label="Show trial {trial}"]')):
            self.press(self.all('[data-part="pager"] button')[-1])
        self.press(found[0])
        self.wait(lambda: self.text("selected-title").startswith(f"Trial {trial},"))

    def selected(self) -> int:
        """Return how many configurations of the last finished round are selected."""
        text = self.text("selection")
        return 0 if text == "Nothing selected" else int(text.split()[0].replace(",", ""))

    def heatmap(self) -> Any:
        script = "return arguments[0].data[0].text.map((row) => [...row])"
        return self.driver.execute_script(script, self.part("heatmap"))

    def column(self, key: str) -> Any:
        """Return the texts of a column of the table's page."""
        heads = self.all("table.evaluations thead th")
        keys = [h.find_elements(By.CSS_SELECTOR, "[data-sort]") for h in heads]
        at = [found[0].get_attribute("data-sort") if found else "" for found in keys].index(key)
        script = "return [...arguments[0].rows].map((row) => row.cells[arguments[1]].textContent)"
        body = self.all("table.evaluations tbody")[0]
        return self.driver.execute_script(script, body, at)

    def sort(self, key: str) -> None:
        self.all(f'[data-sort="{key}"]')[0].click()

    def downloaded(self, pattern: str) -> bytes:
        """Wait for a download, and return it."""
        found = self.wait(lambda: [p for p in self.downloads.glob(pattern) if p.stat().st_size])
        return found[0].read_bytes()

    def errors(self) -> list[Any]:
        return [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        logged = self.driver.get_log("performance")
        events = [json.loads(entry["message"])["message"] for entry in logged]
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(ALLOWED)]


def lonely(record: StudyRecord) -> pd.Series:
    """The point of the last finished round that is farthest from others: a click means only it."""
    latest = latest_points(points_frame(record))
    places = (latest[["average_bits", "loss"]] / (5, 0.3)).to_numpy()
    apart = np.abs(places[:, None] - places).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    apart[latest["average_bits"] >= 4] = 0
    return latest.iloc[apart.min(axis=1).argmax()]


def expected_heatmap(record: StudyRecord, row: pd.Series, knob: str) -> list[list[str]]:
    configuration = json.loads(row["configuration"])
    blocks = sorted({layer.block for layer in record.layers})
    roles = list(dict.fromkeys(layer.role for layer in record.layers))
    cell = {(layer.role, layer.block): configuration[layer.name][knob] for layer in record.layers}
    return [[str(cell[role, block]) for block in blocks] for role in roles]
