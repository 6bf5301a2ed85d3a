"""Headless Chromium: for pictures, benchmarks, and tests, which share one program a process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

WIDTH, HEIGHT = 1400, 1000
PATIENCE = 240
"""Seconds until what is waited for counts as broken, also on a busy machine."""

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
    f"--window-size={WIDTH},{HEIGHT}",
    # A mouse, as desktops have one: without it, Plotly sets the page's cursor when something is
    # dragged, and Chromium computes the styles of all elements again.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,"
    "primaryPointerType=4,availablePointerTypes=4",
)


class ChromiumMissingError(RuntimeError):
    """Chromium or its driver is not installed."""


def find_chromium() -> tuple[str, str]:
    """Return the paths of Chromium and of its driver.

    Raises:
        ChromiumMissingError: If one of them is not on PATH.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        raise ChromiumMissingError(
            "chromium and chromedriver are not on PATH (Debian: chromium, chromium-driver)"
        )
    return program, driver


@contextmanager
def run_chromium(*flags: str) -> Iterator[Any]:
    """Run Chromium with a new profile, as Selenium's driver of it; see :func:`find_chromium`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    program, path = find_chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = program
        for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(path))
        try:
            driver.set_script_timeout(PATIENCE)
            yield driver
        finally:
            driver.quit()


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it with CI set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def open_tab(driver: Any, downloads: Path) -> Iterator[None]:
    """Put a new empty tab in front, the logs empty; then close it, and what its page stored.

    What belongs to a tab is new with it: its size, emulated media, content policy, and the folder
    that its downloads come to.
    """
    before = driver.current_window_handle
    driver.switch_to.new_window("tab")
    tab = driver.current_window_handle
    allow_downloads(driver, downloads)
    for log in ("browser", "performance"):
        driver.get_log(log)
    yield
    driver.switch_to.window(tab)
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    origin = driver.execute_script("return origin === 'null' ? 'file://' : origin")
    stored = {"origin": origin, "storageTypes": "all"}
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", stored)
    driver.close()
    driver.switch_to.window(before)


def allow_downloads(driver: Any, folder: Path) -> None:
    """Let all tabs download into a folder."""
    allow = {"behavior": "allow", "downloadPath": str(folder)}
    driver.execute_cdp_cmd("Page.setDownloadBehavior", allow)


def show_as(driver: Any, *, scheme: str = "light", width: int = WIDTH, height: int = 900) -> None:
    """Show the front tab as a ``light`` or ``dark`` screen does; below 600 pixels it is a phone."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
