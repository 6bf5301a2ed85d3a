"""The pictures of README and docs are those that the script takes, and are small."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("selenium", reason="the dev extra brings selenium")

if TYPE_CHECKING:
    from selenium.webdriver import Chrome as WebDriver

ROOT = Path(__file__).parent.parent.parent
PAGE = """<!doctype html><style>body { margin: 0 } div { height: 100px; margin: 50px }</style>
<div id="one"></div><div id="two"></div><div id="hidden" style="display: none"></div>
<input id="text"><output id="said"></output><button id="button">Go</button>
<script>document.getElementById("button").addEventListener("click", () => {
  document.getElementById("said").textContent = document.getElementById("text").value;
});</script>"""


@pytest.fixture
def screenshots(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which imports the one beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location("screenshots", ROOT / "docs" / "screenshots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "screenshots", module)
    spec.loader.exec_module(module)
    return module


def shown() -> dict[str, Path]:
    """Names of the pictures that README and docs show, and where each is."""
    found = {}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", page.read_text(encoding="utf-8")):
            found[Path(link).stem] = page.parent / link
    return found


def test_each_picture_is_there_and_small_and_the_script_takes_it(screenshots: ModuleType) -> None:
    pictures = shown()
    assert "report" in pictures
    assert pictures.keys() <= {picture.name for picture in screenshots.PICTURES}
    assert all(path.stat().st_size <= screenshots.MAX_BYTES for path in pictures.values())
    assert {picture.page for picture in screenshots.PICTURES} == set(screenshots.PAGES)


@pytest.mark.browser
def test_a_picture_holds_all_that_its_selector_matches_after_its_actions(
    screenshots: ModuleType, browser: WebDriver, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE)
    browser.get(page.as_uri())
    actions = (screenshots.Press("#text", ("some", "SPACE", "words")), screenshots.Click("#button"))
    for action in actions:
        screenshots.do(browser, action)
    assert browser.execute_script("return said.textContent") == "some words"
    picture = screenshots.Picture("name", "study", crop="#one, #two, #hidden")
    left, top, width, height = screenshots.box_of(browser, picture)
    margin = screenshots.MARGIN
    assert (left, top) == (50 - margin, 50 - margin)
    assert (width, height) == (1300 + 2 * margin, 250 + 2 * margin)
    with pytest.raises(SystemExit, match="nothing visible matches"):
        screenshots.box_of(browser, screenshots.Picture("name", "study", crop="#hidden"))
