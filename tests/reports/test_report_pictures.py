"""The pictures of README and docs are those that the script takes, and are small."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def test_each_picture_is_there_and_small_and_the_script_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    screenshots = importlib.import_module("report_pictures")
    pictures = {
        Path(link).stem: page.parent / link
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", page.read_text(encoding="utf-8"))
    }
    assert "report" in pictures
    assert pictures.keys() <= {picture.name for picture in screenshots.PICTURES}
    assert all(path.stat().st_size <= screenshots.MAX_BYTES for path in pictures.values())
    assert {picture.page for picture in screenshots.PICTURES} == set(screenshots.PAGES)
