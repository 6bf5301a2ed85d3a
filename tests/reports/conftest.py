"""A realistic study, its page, and Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from qsearch_reports.page.page import render_page
from qsearch_reports.results import StudyResults

from qsearch.storage.study_record import StudyRecord, write_study
from tests.reports.chromium import ChromiumMissingError, missing, open_tab, run_chromium
from tests.reports.realistic_studies import make_results
from tests.reports.report_page import Page


@pytest.fixture(scope="session")
def results() -> StudyResults:
    return make_results()


@pytest.fixture(scope="session")
def record(results: StudyResults) -> StudyRecord:
    return results.record


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Path]:
    """Write a study into a new directory and return it."""

    def write(record: StudyRecord, name: str = "study") -> Path:
        directory = tmp_path / name
        directory.mkdir()
        write_study(directory, record)
        return directory

    return write


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The one Chromium of this test process."""
    with ExitStack() as stack:
        try:
            driver = stack.enter_context(run_chromium())
        except ChromiumMissingError as error:
            missing(str(error))
        yield driver


@pytest.fixture
def browser(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """A driver whose front tab is new, empty and this test's own."""
    with open_tab(chromium, tmp_path):
        yield chromium


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Callable[..., Page]:
    """Open the page of some studies in a tab of this test's own."""

    def open_page(*studies: StudyResults) -> Page:
        path = tmp_path / "report.html"
        path.write_text(render_page(studies), encoding="utf-8")
        return Page(browser, path)

    return open_page


@pytest.fixture(scope="session")
def report_file(results: StudyResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of ``results``."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page([results]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def open_shared(
    chromium: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], Page]]:
    """Open a page for all tests of this process that are given it."""
    with ExitStack() as tabs:

        def open_page(path: Path) -> Page:
            folder = tmp_path_factory.mktemp("downloads")
            tabs.enter_context(open_tab(chromium, folder))
            return Page(chromium, path, folder)

        yield open_page


@pytest.fixture(scope="session")
def shared_page(open_shared: Callable[[Path], Page], report_file: Path) -> Page:
    return open_shared(report_file)


@pytest.fixture
def page(shared_page: Page) -> Page:
    """The page of ``results`` as a reader first sees it; the tests of a process share it."""
    shared_page.reset()
    return shared_page


@pytest.fixture
def fresh(browser: Any, report_file: Path) -> Page:
    """The page of ``results`` in a tab of this test's own, to change its script, or mark layers."""
    return Page(browser, report_file)
