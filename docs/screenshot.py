"""Take a picture of a report with headless Chromium.

Usage: python docs/screenshot.py report.html picture.png [--width 1400] [--height N] [--dark]

Needs Chromium and ChromeDriver on PATH (Debian: chromium, chromium-driver), and the package
selenium, which `make .venv/.ready-test` installs. Without --height the picture holds the whole
page. docs/report_pictures.py takes all pictures of the documentation.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # Tests and pictures share a Chromium.

try:
    from selenium.common import TimeoutException
    from selenium.webdriver.chrome.webdriver import WebDriver
    from selenium.webdriver.support.wait import WebDriverWait

    from tests.reports.chromium import ChromiumMissingError, run_chromium, show_as
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is not installed: make .venv/.ready-test")


@contextmanager
def chromium() -> Iterator[WebDriver]:
    """Run Chromium with a new profile, without scroll bars."""
    try:
        with run_chromium("--hide-scrollbars") as driver:
            yield driver
    except ChromiumMissingError as error:
        sys.exit(str(error))


def open_report(
    driver: WebDriver, report: Path, width: int, height: int | None, *, dark: bool
) -> None:
    """Open a report in a window of some size, below 600 pixels a phone's, until it is drawn."""
    if not report.is_file():
        sys.exit(f"there is no file {report}; `qsearch report DIR` writes DIR/report.html")
    show_as(driver, scheme="dark" if dark else "light", width=width, height=height or 1000)
    driver.get(report.resolve().as_uri())
    try:
        WebDriverWait(driver, 30).until(
            lambda page: page.execute_script("return document.documentElement.dataset.ready")
        )
    except TimeoutException:
        sys.exit(f"{report} has not drawn itself within 30 s; is it a report of qsearch?")


def capture(driver: WebDriver, box: tuple[float, float, float, float]) -> bytes:
    """Return the PNG of a part of the page: left, top, width and height in CSS pixels."""
    clip = dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"scale": 1}
    options = {"clip": clip, "captureBeyondViewport": True}
    return base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"])


def page_height(driver: WebDriver) -> float:
    """Return the height of the whole page in CSS pixels."""
    return float(driver.execute_script("return document.documentElement.scrollHeight"))


def take(report: Path, picture: Path, width: int, height: int | None, *, dark: bool) -> None:
    """Write a picture of a report once it has drawn itself."""
    with chromium() as driver:
        open_report(driver, report, width, height, dark=dark)
        picture.write_bytes(capture(driver, (0, 0, width, height or page_height(driver))))


def main() -> None:
    """Read the command line and take the picture."""
    parser = argparse.ArgumentParser(description="Take a picture of a report.")
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=int)
    parser.add_argument("--dark", action="store_true")
    chosen = parser.parse_args()
    take(chosen.report, chosen.picture, chosen.width, chosen.height, dark=chosen.dark)


if __name__ == "__main__":
    main()
