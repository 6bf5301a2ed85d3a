"""What axe-core finds wrong with the open page for those who cannot see it or use a mouse."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reports.chromium import missing

AXE = Path(sys.prefix) / "npm" / "node_modules" / "axe-core" / "axe.min.js"
"""Where `make axe` installs it."""

TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
"""Rules of WCAG 2.2 at level AA and below, and what axe-core advises beyond them."""

RUN = """
const [tags, done] = arguments;
axe.run(document, {runOnly: tags, resultTypes: ["violations"]}).then(
  (found) => done({violations: found.violations}),
  (error) => done({error: String(error)}),
);
"""


@dataclass(frozen=True)
class Violation:
    """A rule that an element of the page breaks."""

    rule: str
    impact: str
    target: str
    """CSS selector of the element."""

    help: str
    summary: str
    """What would mend it, with the figures that axe-core measured."""


def find_axe() -> str:
    """Return axe-core's script; without it skip, but fail where CI promises to have it."""
    if not AXE.is_file():
        missing("axe-core is not installed: `make axe` does it, by npm")
    return AXE.read_text(encoding="utf-8")


def find_violations(driver: Any) -> list[Violation]:
    """Check the open page as it is now; what is hidden is not checked.

    The page's content policy may stay: the driver evaluates axe-core from outside the page.

    Args:
        driver: Selenium's driver of Chromium, the page in front.

    Returns:
        One entry for each rule and element that breaks it, in axe-core's order.

    Raises:
        RuntimeError: If axe-core itself fails.
    """
    if not driver.execute_script("return typeof axe === 'object'"):
        driver.execute_script(find_axe())
    found = driver.execute_async_script(RUN, TAGS)
    if "error" in found:
        raise RuntimeError(f"axe-core: {found['error']}")
    return [
        Violation(
            rule["id"],
            str(node["impact"]),
            " ".join(map(str, node["target"])),
            rule["help"],
            " ".join(node["failureSummary"].split()),
        )
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
