"""The pages name what exists: other pages, modules, benchmarks, files and columns."""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import pytest

import qsearch
from qsearch.storage.paths import kind_of
from qsearch.storage.study_record import TRIAL_COLUMNS
from tests.end_to_end.conftest import ROOT

PAGES = [*sorted(ROOT.glob("[A-Z]*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if not re.match(r"CHANGELOG|\d{4}-|report-peers", page.name)]
"""Without those that name code of the past, or of others."""
FOLDERS = (ROOT, ROOT / "qsearch", ROOT / "reports" / "qsearch_reports")


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text.lower(), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_to_pages_and_headings_of_the_repository(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert ROOT in target.parents, link
        assert not heading or heading in anchors(target), link


@pytest.mark.parametrize("page", WITH_CODE, ids=names(WITH_CODE))
def test_named_files_modules_and_benchmarks_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`([\w/]+/\w+\.py)`", text):
        assert any((folder / name).is_file() for folder in FOLDERS), name
    for name in re.findall(r"\bqsearch\.\w+\.[\w.]*\w", text):
        if name.split(".")[1] in qsearch.__all__:
            attrgetter(name.removeprefix("qsearch."))(qsearch)  # Such as Space.from_model.
            continue
        place = ROOT / name.replace(".", "/")
        module, parent = place.with_suffix(".py"), place.parent.with_suffix(".py")
        assert place.is_dir() or module.is_file() or parent.is_file(), name
    for name in re.findall(r"make bench-(\w+)", text):
        assert (ROOT / "benchmarks" / f"{name}.py").is_file(), name


def test_who_installs_qsearch_is_given_the_name_of_its_distribution() -> None:
    folders = ("adapters", "docs", "examples", "qsearch", "reports", "studies")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.*")]
    texts = [file for file in files if file.suffix in (".md", ".py", ".toml", ".yaml")]
    for file in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *texts]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\bqsearch(\[|>=|==)|install '?qsearch(?!-llm|-\w)", text), file


def first_cells(heading: str) -> list[str]:
    """What the first column of a section of docs/cli.md names."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_the_files_of_a_study_directory_are_those_that_the_code_knows() -> None:
    files = {name.replace("-N", "-1") for name in first_cells("A study directory")}
    assert {name for name in files if kind_of(name) is None} == {"report.html", "state/mlflow-run"}


def test_the_columns_of_trials_are_documented_in_order() -> None:
    assert first_cells("`trials.parquet`") == list(TRIAL_COLUMNS)
