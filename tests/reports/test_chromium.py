"""Tests share one Chromium and must not see each other's pages."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.reports.chromium import Chromium, show_as
from tests.reports.report_page import downloaded

if not os.environ.get("CI"):
    pytest.importorskip("selenium", reason="the dev extra brings selenium")

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><title>Page</title><a download="saved.txt" href="data:text/plain,x">x</a>
<script>
console.error(localStorage.getItem("kept") ?? "nothing kept");
localStorage.setItem("kept", "something");
</script>"""
STATE = """return [innerWidth, matchMedia("(prefers-color-scheme: dark)").matches]"""


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip), ("1", pytest.fail)])
def test_missing_chromium_skips_at_a_desk_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, outcome: object
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome.Exception, match="not on PATH"):  # type: ignore[attr-defined]
        Chromium(tmp_path).open_tab(tmp_path)


def test_a_new_tab_knows_nothing_of_the_one_before(chromium: Chromium, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE)
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        tab = chromium.open_tab(folder)
        assert tab.execute_script(STATE) == [1400, False]
        assert tab.get_log("browser") == []
        tab.get(page.as_uri())
        (line,) = tab.get_log("browser")
        assert "nothing kept" in line["message"]
        show_as(tab, scheme="dark", width=390)
        assert tab.execute_script(STATE)[1] is True
        tab.execute_script("document.querySelector('a').click(); console.error('left over')")
        assert downloaded(folder, "saved.txt") == b"x"
        chromium.close_tab()


def test_a_chromium_that_died_is_started_again(chromium: Chromium, tmp_path: Path) -> None:
    tab = chromium.open_tab(tmp_path)
    for process in psutil.Process(tab.service.process.pid).children():
        process.kill()
    chromium.close_tab()
    again = chromium.open_tab(tmp_path)
    assert again.execute_script("return 1 + 1") == 2
    chromium.close_tab()
