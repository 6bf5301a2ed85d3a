"""What is said of a selection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.reports.page_scripts import Scope
from tests.reports.scripts.support import QUICK

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def toolbar(script: Callable[..., Scope]) -> Scope:
    return script("toolbar.js")


@QUICK
@example(values=[2.0, 0.0, None, 5.0], rows={0, 1, 2}, places=1)
@given(
    values=st.lists(st.none() | st.floats(0, 100), min_size=1),
    rows=st.sets(st.integers(0, 30)),
    places=st.integers(0, 4),
)
def test_a_range_is_from_the_least_to_the_greatest_that_is_known(
    toolbar: Scope, values: list[float | None], rows: set[int], places: int
) -> None:
    chosen = sorted(row for row in rows if row < len(values))
    text = toolbar.evaluate(
        "rangeText(rows, values, places)", rows=chosen, values=values, places=places
    )
    known = [value for row in chosen if (value := values[row]) is not None]
    if not known:
        assert text == "–"
        return
    ends = [float(end) for end in text.split("–")]
    half = 0.5 * 10.0**-places * (1 + 1e-9)
    assert abs(ends[0] - min(known)) <= half
    assert abs(ends[-1] - max(known)) <= half


def test_ends_that_read_the_same_are_written_once(toolbar: Scope) -> None:
    script = "[1, 2, 4].map((places) => rangeText([0, 1], [2.501, 2.504], places))"
    assert toolbar.evaluate(script) == ["2.5", "2.50", "2.5010–2.5040"]


def test_selected_rows_are_those_of_the_latest_round(toolbar: Scope) -> None:
    study = {"count": 4, "points": {"configuration": [0, 1, 0, 1], "latest": [0, 0, 1, 1]}}
    script = "selectedRows(study, {selected: new Set(codes)})"
    assert toolbar.evaluate(script, study=study, codes=[1]) == [3]
    assert toolbar.evaluate(script, study=study, codes=[0, 1, 9]) == [2, 3]
    assert toolbar.evaluate(script, study=study, codes=[]) == []
