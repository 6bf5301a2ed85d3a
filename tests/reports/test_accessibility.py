"""What axe-core finds in the report: nothing, light or dark, wide or narrow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qsearch_reports.page.page import render_page
from qsearch_reports.results import StudyResults

from qsearch.space.configuration import Choices
from qsearch.storage.study_record import StudyRecord
from tests.reports import accessibility
from tests.reports.accessibility import Violation
from tests.reports.chromium import show_as
from tests.reports.report_page import Page

if TYPE_CHECKING:
    from selenium.webdriver import Chrome as WebDriver

pytestmark = pytest.mark.browser

Violations = Callable[["WebDriver"], list[Violation]]
APPEARANCES = {
    "light": ("light", 1400),
    "dark": ("dark", 1400),
    "narrow": ("light", 390),
}
SHOW_ALL = """
for (const node of document.querySelectorAll('details')) node.open = true;
// What is far from the screen is drawn for the printer.
for (const kind of ['beforeprint', 'afterprint']) window.dispatchEvent(new Event(kind));
"""
PRESS = "document.querySelector(`[data-part='${arguments[0]}']`)?.click()"
FAULTY = """<!doctype html><html lang="en"><head><title>Faulty</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
</head><body><main><h1>Faulty</h1><p style="color: #999; background: #fff">Too pale.</p>
<button id="nameless"></button><p>Good.</p></main></body></html>"""


def test_faults_of_a_page_are_told_under_a_policy_that_allows_no_script(
    browser: WebDriver, violations: Violations, tmp_path: Path
) -> None:
    page = tmp_path / "faulty.html"
    page.write_text(FAULTY)
    browser.get(page.as_uri())
    found = {(one.rule, one.impact, one.target) for one in violations(browser)}
    assert found == {
        ("button-name", "critical", "#nameless"),
        ("color-contrast", "serious", "p:nth-child(2)"),
    }


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip), ("1", pytest.fail)])
def test_missing_axe_core_skips_at_a_desk_and_fails_in_ci(
    ci: str, outcome: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(accessibility, "AXE", tmp_path / "axe.min.js")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome.Exception, match="make axe"):  # type: ignore[attr-defined]
        accessibility.find_axe()


@pytest.fixture(params=["finished", "empty", "failed", "several"])
def report(
    request: pytest.FixtureRequest,
    make_results: Callable[..., StudyResults],
    only_failures: Callable[[StudyRecord], StudyRecord],
    integer_choices: Choices,
    tmp_path: Path,
) -> Path:
    """A page: of a finished study, one without results, one all failed, or of several."""
    results = make_results(rounds=2, trials_per_round=8)
    shown = {
        "finished": lambda: [results],
        "empty": lambda: [make_results(rounds=0)],
        "failed": lambda: [replace(results, record=only_failures(results.record))],
        "several": lambda: [
            results,
            make_results(
                name="other", choices=integer_choices, seed=1, rounds=2, trials_per_round=8
            ),
        ],
    }
    path = tmp_path / "report.html"
    path.write_text(render_page(shown[request.param]()), encoding="utf-8")
    return path


def test_the_page_has_no_fault_that_axe_core_knows(
    browser: WebDriver, violations: Violations, report: Path
) -> None:
    page = Page(browser, report)
    browser.execute_script(SHOW_ALL)
    for name in ("pin", "select-front"):
        browser.execute_script(PRESS, name)
    found = {}
    for name, (scheme, width) in APPEARANCES.items():
        show_as(browser, scheme=scheme, width=width)
        page.settle()
        found[name] = violations(browser)
    assert found == {name: [] for name in APPEARANCES}
    assert page.errors() == []
