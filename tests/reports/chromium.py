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


def start_chromium(profile: Path, *flags: str) -> Any:
    """Start Chromium and return Selenium's driver of it; see :func:`find_chromium`."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    program, driver = find_chromium()
    options = Options()
    options.binary_location = program
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    made.set_script_timeout(PATIENCE)
    return made


@contextmanager
def run_chromium(*flags: str) -> Iterator[Any]:
    """Run Chromium with a new profile; see :func:`start_chromium`."""
    with tempfile.TemporaryDirectory() as profile:
        driver = start_chromium(Path(profile), *flags)
        try:
            yield driver
        finally:
            driver.quit()


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it with CI set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Chromium:
    """A running Chromium, that is started again after a test that broke it."""

    def __init__(self, profiles: Path) -> None:
        """Take a folder for profiles; nothing is started yet."""
        self.profiles = profiles
        self.starts = 0
        self.driver: Any = None
        self.tabs: list[str] = []

    def open_tab(self, downloads: Path) -> Any:
        """Return the driver with a new empty tab in front, its logs empty.

        What belongs to a tab is new with it: its size, emulated media, content policy, and the
        folder that its downloads come to.
        """
        if self.driver is None:
            self._start()
        driver = self.driver
        driver.switch_to.new_window("tab")
        self.tabs.append(driver.current_window_handle)
        allow = {"behavior": "allow", "downloadPath": str(downloads)}
        driver.execute_cdp_cmd("Page.setDownloadBehavior", allow)
        for log in ("browser", "performance"):
            driver.get_log(log)
        return driver

    def close_tab(self) -> None:
        """Close the last tab, delete what its page stored, and put the one before in front.

        A broken Chromium is ended.
        """
        from selenium.common.exceptions import WebDriverException

        if self.driver is None:
            return
        try:
            self.driver.switch_to.window(self.tabs.pop())
            _delete_stored(self.driver)
            self.driver.close()
            self.driver.switch_to.window(self.tabs[-1])
        except WebDriverException:
            self.quit()

    def quit(self) -> None:
        """End the program, if it runs."""
        if self.driver is not None:
            self.driver.quit()
        self.driver = None
        self.tabs = []

    def _start(self) -> None:
        self.starts += 1
        try:
            self.driver = start_chromium(self.profiles / str(self.starts))
        except ChromiumMissingError as error:
            missing(str(error))
        self.tabs = [self.driver.current_window_handle]


def _delete_stored(driver: Any) -> None:
    """Clear what the open page could have kept for the next one."""
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    origin = driver.execute_script("return origin === 'null' ? 'file://' : origin")
    stored = {"origin": origin, "storageTypes": "all"}
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", stored)


def show_as(driver: Any, *, scheme: str = "light", width: int = WIDTH, height: int = 900) -> None:
    """Show the front tab as another screen does.

    Args:
        driver: Selenium's driver of Chromium.
        scheme: ``light`` or ``dark``.
        width: Width of the window in CSS pixels; below 600 it is a phone's.
        height: Its height.
    """
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
