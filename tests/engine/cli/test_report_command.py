"""``report``."""

from __future__ import annotations

from pathlib import Path


def test_report_writes_one_page(qsearch, finished: Path, tmp_path: Path) -> None:
    code, output, _ = qsearch("report", finished, "--out", tmp_path / "page.html")
    assert code == 0
    assert str(tmp_path / "page.html") in output
    assert (tmp_path / "page.html").read_text().lstrip().lower().startswith("<!doctype html")


def test_a_report_that_cannot_be_written_is_refused(
    qsearch, finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    errors = qsearch("report", finished, "--out", tmp_path / "file" / "page.html").refused()
    assert "cannot be written" in errors
