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
    pass

ROOT = Path(__file__).parent.parent.parent


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
