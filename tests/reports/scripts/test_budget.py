"""Budgets: units, ends of the slider, and what fits; always as the command line counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch._sizes import parse_size
from tests.reports.scripts.script_scope import QUICK, Scope

pytestmark = pytest.mark.browser

# Of a budget's own steps, of powers of two, and what is hardly above either.
STEPS = st.integers(20, 340).map(lambda count: count * 0.05)
DYADIC = st.integers(32, 544).map(lambda count: count / 32)
BITS = st.floats(1, 17) | st.builds(
    lambda bits, more: bits + more, STEPS | DYADIC, st.sampled_from((0, 5e-16, 2e-11))
)


ROWS = st.lists(st.tuples(BITS, st.integers(10**4, 10**13)), min_size=1, max_size=5)
"""Average bits and bytes of trials."""


def study(rows: list[tuple[float, int]], has_bytes: bool = True) -> dict[str, Any]:
    bits, nbytes = zip(*rows, strict=True)
    points = {
        "average_bits": bits,
        "bytes": nbytes if has_bytes else [None] * len(rows),
        "latest": [True] * len(rows),
    }
    return {"count": len(rows), "points": points}


UNITS = """
budgetUnits(study).map((unit) => ({
  key: unit.key, low: unit.low, high: unit.high, step: unit.step, digits: unit.digits,
  limits: [unit.limit(unit.low), unit.limit(unit.high)],
  options: [unit.option(unit.low), unit.option(unit.high)],
  shown: [unit.low.toFixed(unit.digits), unit.high.toFixed(unit.digits)],
}))
"""


def units(
    scripts: Scope, rows: list[tuple[float, int]], has_bytes: bool = True
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = scripts.evaluate(UNITS, study=study(rows, has_bytes))
    return found


def test_without_bytes_a_budget_is_in_bits(scripts: Scope) -> None:
    assert [unit["key"] for unit in units(scripts, [(3.0, 1)], has_bytes=False)] == ["bits"]


@QUICK
@given(rows=ROWS)
def test_at_both_ends_of_the_slider_something_fits_for_the_command_line_too(
    scripts: Scope, rows: list[tuple[float, int]]
) -> None:
    found = units(scripts, rows)
    assert [unit["key"] for unit in found] == ["bits", "MB", "GB"]
    for unit in found:
        sizes = [row[unit["key"] != "bits"] for row in rows]
        for option, limit, needed in zip(
            unit["options"], unit["limits"], (min(sizes), max(sizes)), strict=True
        ):
            name, text = option.split()
            if unit["key"] == "bits":
                assert name == "--bits"
                assert float(text) == limit
            else:
                assert name == "--bytes"
                nbytes, named = parse_size(text, name)
                assert named == unit["key"]
                assert nbytes == limit
            assert limit >= needed
