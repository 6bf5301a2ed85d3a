"""What axe-core finds wrong with the open page for those who cannot see it or use a mouse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.reports.chromium import missing, show_as

AXE = Path(sys.prefix) / "npm" / "node_modules" / "axe-core" / "axe.min.js"
"""Where `make axe` installs it."""

TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
"""Rules of WCAG 2.2 at level AA and below, and what axe-core advises beyond them."""

RUN = """
const [tags, done] = arguments;
axe.run(document, {runOnly: tags, resultTypes: ["violations"]}).then(
  (found) => done(found.violations.flatMap(({id, nodes}) => nodes.map((node) =>
    [id, node.impact, node.target.join(" "), node.failureSummary]))),
  (error) => done([["axe-core failed", "", "", String(error)]]),
);
"""
APPEARANCES = (("light", 1400), ("dark", 390))


def violations(driver: Any) -> list[list[str]]:
    """Check the open page as it is now: rule, impact, CSS selector and mending of each fault.

    The page's content policy may stay: the driver evaluates axe-core from outside the page. Without
    axe-core the test is skipped, but fails where CI promises to have it.
    """
    if not AXE.is_file():
        missing("axe-core is not installed: `make axe` does it, by npm")
    driver.execute_script(AXE.read_text(encoding="utf-8"))
    found: list[list[str]] = driver.execute_async_script(RUN, TAGS)
    return found


def faults_in_any_appearance(page: Any) -> dict[tuple[str, int], list[list[str]]]:
    """Check an open page light and wide, and dark and narrow."""
    found = {}
    for scheme, width in APPEARANCES:
        show_as(page.driver, scheme=scheme, width=width)
        page.settle()
        found[scheme, width] = violations(page.driver)
    return {appearance: faults for appearance, faults in found.items() if faults}
