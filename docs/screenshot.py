"""Take a picture of a report with headless Chromium.

Usage: python docs/screenshot.py report.html picture.png [--width 1400] [--height N] [--dark]

Needs Chromium and ChromeDriver on PATH (Debian: chromium, chromium-driver), and the package
selenium, which `make .venv/.ready-test` installs. Without --height the picture holds the whole
page.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import tempfile
from pathlib import Path

try:
    from selenium import webdriver
    from selenium.common import TimeoutException
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.wait import WebDriverWait
except ModuleNotFoundError:
    sys.exit("selenium is not installed: pip install selenium, or make .venv/.ready-test")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def take(report: Path, picture: Path, width: int, height: int | None, *, dark: bool) -> None:
    """Write a picture of a report once it has drawn itself."""
    if not report.is_file():
        sys.exit(f"there is no file {report}; `qsearch report DIR` writes DIR/report.html")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver_path = shutil.which("chromedriver")
    if not chromium or not driver_path:
        sys.exit("chromium and chromedriver must be on PATH (Debian: chromium, chromium-driver)")
    options = Options()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(driver_path))
        try:
            metrics = {"width": width, "height": height or 1000, "deviceScaleFactor": 1}
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride", {**metrics, "mobile": width < 600}
            )
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
            driver.get(report.resolve().as_uri())
            WebDriverWait(driver, 30).until(
                lambda page: page.execute_script("return document.documentElement.dataset.ready")
            )
            tall = driver.execute_script("return document.documentElement.scrollHeight")
            clip = {"x": 0, "y": 0, "width": width, "height": height or tall, "scale": 1}
            taken = driver.execute_cdp_cmd(
                "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
            )
            picture.write_bytes(base64.b64decode(taken["data"]))
        except TimeoutException:
            sys.exit(f"{report} has not drawn itself within 30 s; is it a report of qsearch?")
        finally:
            driver.quit()


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
