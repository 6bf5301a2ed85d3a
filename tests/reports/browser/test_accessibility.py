"""What axe-core finds in the report: nothing, light or dark, wide or narrow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.reports.accessibility import faults_in_any_appearance
from tests.reports.realistic_studies import INTEGER, LAYERS, make_results, only_failures
from tests.reports.report_page import Page

pytestmark = pytest.mark.browser

SHOW_ALL = """
for (const node of document.querySelectorAll('details')) node.open = true;
// What is far from the screen is drawn for the printer.
for (const kind of ['beforeprint', 'afterprint']) window.dispatchEvent(new Event(kind));
for (const part of ['pin', 'select-front']) {
  document.querySelector(`[data-part='${part}']`)?.click();
}
"""


@pytest.mark.parametrize("kind", ["empty", "failed", "several"])
def test_the_page_has_no_fault_that_axe_core_knows(kind: str, opened: Callable[..., Page]) -> None:
    size = {"rounds": 2, "trials_per_round": 8, "layers": LAYERS[:12]}
    small = make_results(**size)
    other = make_results(name="other", choices=INTEGER, seed=1, **size)
    shown = {
        "empty": [make_results(rounds=0)],
        "failed": [replace(small, record=only_failures(small.record))],
        "several": [small, other],
    }
    page = opened(*shown[kind])
    page.driver.execute_script(SHOW_ALL)
    assert faults_in_any_appearance(page) == {}
    assert page.errors() == []
