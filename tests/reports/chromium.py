"""Headless Chromium for tests: one program for all tests of a process, one new tab a test."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

WIDTH, HEIGHT = 1400, 1000
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
    # dragged, and Chromium computes the styles of all elements anew.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,"
    "primaryPointerType=4,availablePointerTypes=4",
)


@dataclass(frozen=True)
class Programs:
    """Paths of Chromium and of its driver."""

    chromium: str
    driver: str


def find_chromium() -> Programs:
    """Find Chromium; without it skip, but fail where CI promises to have it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        missing("chromium and chromedriver are not on PATH (Debian: chromium, chromium-driver)")
    return Programs(chromium, driver)


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
        self.home = ""

    def open_tab(self, downloads: Path) -> Any:
        """Return the driver with a new empty tab in front, its logs empty.

        What belongs to a tab is new with it: its size, emulated media, content policy.

        Args:
            downloads: Folder that this tab's downloads come to.
        """
        if self.driver is None:
            self._start()
        driver = self.driver
        driver.switch_to.new_window("tab")
        allow = {"behavior": "allow", "downloadPath": str(downloads)}
        driver.execute_cdp_cmd("Page.setDownloadBehavior", allow)
        for log in ("browser", "performance"):
            driver.get_log(log)
        return driver

    def close_tabs(self) -> None:
        """Close all tabs and forget what their pages stored; a broken Chromium is ended."""
        from selenium.common.exceptions import WebDriverException

        driver = self.driver
        try:
            for handle in driver.window_handles:
                if handle != self.home:
                    driver.switch_to.window(handle)
                    _forget(driver)
                    driver.close()
            driver.switch_to.window(self.home)
        except WebDriverException:
            self.quit()

    def quit(self) -> None:
        """End the program, if it runs."""
        if self.driver is not None:
            self.driver.quit()
        self.driver = None

    def _start(self) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service

        programs = find_chromium()
        options = Options()
        options.binary_location = programs.chromium
        self.starts += 1
        for flag in (*FLAGS, f"--user-data-dir={self.profiles / str(self.starts)}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(programs.driver))
        self.home = self.driver.current_window_handle


def _forget(driver: Any) -> None:
    """Clear what the open page could have kept for the next one."""
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    origin = driver.execute_script("return origin === 'null' ? 'file://' : origin")
    stored = {"origin": origin, "storageTypes": "all"}
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", stored)


def open_page(driver: Any, path: Path) -> None:
    """Open a report and wait until it has drawn itself."""
    from selenium.webdriver.support.wait import WebDriverWait

    driver.get(path.as_uri())
    drawn = "return document.documentElement.dataset.ready"
    WebDriverWait(driver, 20, 0.05).until(lambda _: driver.execute_script(drawn))


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
