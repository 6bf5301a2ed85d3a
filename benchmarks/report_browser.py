"""Headless Chromium that opens new pages and times them from within."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver.support.wait import WebDriverWait

HERE = Path(__file__).parent
_PATIENCE = 120
"""Seconds until a page or a script counts as broken."""


@contextmanager
def opened(driver: Any, page: Path) -> Iterator[float]:
    """Open a page in a new tab, and yield the seconds from navigation until it is drawn.

    Args:
        driver: Selenium's driver of Chromium.
        page: A page that sets ``data-ready`` of its root element once it has drawn itself.
    """
    home = driver.current_window_handle
    driver.switch_to.new_window("tab")
    source = (HERE / "report_timing.js").read_text(encoding="utf-8")
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        driver.get(page.resolve().as_uri())
        drawn = "return window.timing.drawn"
        found = WebDriverWait(driver, _PATIENCE, 0.2).until(lambda d: d.execute_script(drawn))
        yield found / 1000
    finally:
        driver.close()
        driver.switch_to.window(home)


def opening_seconds(driver: Any, pages: Mapping[str, Path], repeats: int) -> dict[str, list[float]]:
    """Return the seconds that each page takes to be drawn, each in turn, after one warm-up each.

    Args:
        driver: Selenium's driver of Chromium.
        pages: Pages by name.
        repeats: Turns that count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in pages}
    for turn in range(repeats + 1):
        for name, page in pages.items():
            with opened(driver, page) as taken:
                if turn:
                    seconds[name].append(taken)
    return seconds


def run_script(driver: Any, name: str, *arguments: Any) -> dict[str, Any]:
    """Return what a script of this folder finds on the open page.

    Args:
        driver: Selenium's driver of Chromium.
        name: The script's file name.
        arguments: What it is given; it calls the one after them with what it has found.

    Raises:
        RuntimeError: If the script fails.
    """
    script = (HERE / name).read_text(encoding="utf-8")
    found: dict[str, Any] = driver.execute_async_script(script, *arguments)
    if "error" in found:
        raise RuntimeError(f"{name}: {found['error']}")
    return found
