"""Budgets: units, ends of the slider, and what fits; always as the command line counts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.deployment.budgets import parse_size
from qsearch.plugins.footprint import Footprint
from tests.reports.scripts.script_scope import QUICK, Scope

pytestmark = pytest.mark.browser

# Of a budget's own steps, of powers of two, and what is hardly above either.
STEPS = st.integers(20, 340).map(lambda count: count * 0.05)
DYADIC = st.integers(32, 544).map(lambda count: count / 32)
BITS = st.floats(1, 17) | st.builds(
    lambda bits, more: bits + more, STEPS | DYADIC, st.sampled_from((0, 5e-16, 2e-11))
)


def footprint(weights: int, other: int, adapter: int) -> Footprint:
    return Footprint(weights, other, adapter, 0, 0, 0, 1)


FOOTPRINTS = st.builds(
    footprint, st.integers(10**4, 10**12), st.integers(0, 10**13), st.integers(0, 10**9)
)


def study(bits: list[float], sizes: Footprint | None) -> dict[str, Any]:
    return {
        "count": len(bits),
        "footprint": None if sizes is None else asdict(sizes),
        "points": {"average_bits": bits, "latest": [True] * len(bits)},
    }


UNITS = """
budgetUnits(study).map((unit) => ({
  key: unit.key, low: unit.low, high: unit.high, step: unit.step, digits: unit.digits,
  limits: [unit.limit(unit.low), unit.limit(unit.high)],
  options: [unit.option(unit.low), unit.option(unit.high)],
  shown: [unit.low.toFixed(unit.digits), unit.high.toFixed(unit.digits)],
}))
"""


def units(scripts: Scope, bits: list[float], sizes: Footprint | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = scripts.evaluate(UNITS, study=study(bits, sizes))
    return found


@QUICK
@given(sizes=FOOTPRINTS, bits=st.lists(BITS, min_size=1), limits=st.lists(st.floats(0, 1e12)))
def test_bytes_are_counted_exactly_as_exports_are(
    scripts: Scope, sizes: Footprint, bits: list[float], limits: list[float]
) -> None:
    taken, most = scripts.evaluate(
        "[bits.map((of) => fileBytes(study, of)), limits.map((of) => bitsForFile(study, of))]",
        study=study(bits, sizes),
        bits=bits,
        limits=limits,
    )
    assert taken == [sizes.file_bytes(each) for each in bits]
    assert most == [sizes.bits_for_file(each) for each in limits]


@QUICK
@given(sizes=FOOTPRINTS, bits=st.lists(BITS, min_size=1, max_size=5))
def test_at_both_ends_of_the_slider_something_fits_for_the_command_line_too(
    scripts: Scope, sizes: Footprint, bits: list[float]
) -> None:
    found = units(scripts, bits, sizes)
    assert [unit["key"] for unit in found] == ["bits", "MB", "GB"]
    for unit in found:
        for option, limit, needed in zip(
            unit["options"], unit["limits"], (min(bits), max(bits)), strict=True
        ):
            name, text = option.split()
            if unit["key"] == "bits":
                assert name == "--bits"
                assert float(text) == limit
            else:
                assert name == "--bytes"
                nbytes, named = parse_size(text, name)
                assert named == unit["key"]
                assert sizes.bits_for_file(nbytes) == limit
            assert limit >= needed
