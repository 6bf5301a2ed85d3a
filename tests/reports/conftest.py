"""A realistic study, its page, and Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qsearch_reports.page.page import render_page
from qsearch_reports.results import StudyResults

from qsearch.space.configuration import Choices
from qsearch.storage.study_record import StudyRecord, write_study
from tests.reports.accessibility import Violation, find_axe, find_violations
from tests.reports.chromium import Chromium
from tests.reports.page_scripts import Scope
from tests.reports.realistic_studies import INTEGER, make_record, make_results, only_failures
from tests.reports.report_page import Page
from tests.reports.small_studies import small_study

if TYPE_CHECKING:
    from selenium.webdriver import Chrome as WebDriver


@pytest.fixture(scope="session", name="make_record")
def make_record_fixture() -> Callable[..., StudyRecord]:
    return make_record


@pytest.fixture(scope="session", name="make_results")
def make_results_fixture() -> Callable[..., StudyResults]:
    return make_results


@pytest.fixture(scope="session")
def results() -> StudyResults:
    return make_results()


@pytest.fixture(scope="session")
def study_of() -> Callable[..., StudyResults]:
    """Make a study of one round from pairs of average bits and loss: see ``small_study``."""
    base = make_results(rounds=1, trials_per_round=8, failed=0)
    return lambda pairs, **options: small_study(base, pairs, **options)


@pytest.fixture(scope="session", name="only_failures")
def only_failures_fixture() -> Callable[[StudyRecord], StudyRecord]:
    return only_failures


@pytest.fixture(scope="session")
def integer_choices() -> Choices:
    return INTEGER


@pytest.fixture(scope="session")
def record() -> StudyRecord:
    return make_record()


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
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The one Chromium of this test process, started when a test first opens a tab."""
    made = Chromium(tmp_path_factory.mktemp("chromium"))
    yield made
    made.quit()


@pytest.fixture
def browser(chromium: Chromium, tmp_path: Path) -> Iterator[WebDriver]:
    """A driver whose front tab is new, empty and this test's own."""
    yield chromium.open_tab(tmp_path)
    chromium.close_tab()


@pytest.fixture(scope="session")
def report_file(results: StudyResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of ``results``."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page([results]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def open_shared(
    chromium: Chromium, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], Page]]:
    """Open a page for all tests of a module."""
    opened = []

    def open_page(path: Path) -> Page:
        folder = tmp_path_factory.mktemp("downloads")
        opened.append(Page(chromium.open_tab(folder), path, folder))
        return opened[-1]

    yield open_page
    for _ in opened:
        chromium.close_tab()


@pytest.fixture(scope="module")
def shared_page(open_shared: Callable[[Path], Page], report_file: Path) -> Page:
    return open_shared(report_file)


@pytest.fixture
def page(shared_page: Page) -> Page:
    """The page of ``results`` as a reader first sees it; tests of a module share it."""
    shared_page.reset()
    return shared_page


@pytest.fixture
def fresh(browser: WebDriver, report_file: Path) -> Page:
    """The page of ``results`` in a tab of this test's own, to zoom, and go to other rounds."""
    return Page(browser, report_file)


@pytest.fixture(scope="module")
def script(
    chromium: Chromium, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Scope]]:
    """Load some of the page's modules into an empty page: (file names, html="") -> Scope."""
    driver = chromium.open_tab(tmp_path_factory.mktemp("downloads"))

    def load(*modules: str, html: str = "") -> Scope:
        return Scope(driver, modules, html)

    yield load
    chromium.close_tab()


@pytest.fixture(scope="session")
def violations() -> Callable[[WebDriver], list[Violation]]:
    """Check the open page with axe-core: (browser) -> what is wrong with it."""
    find_axe()
    return find_violations
