"""Where a figure's marks are drawn."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reports.page_scripts import Scope

pytestmark = pytest.mark.browser

POINTS = {"points": {"configuration": [7, 8, 7, 9]}}


def places(study_page: Scope, *traces: dict[str, Any]) -> dict[int, list[list[Any]]]:
    found = study_page.evaluate(
        "[...findPlaces(node, given)].map(([code, all]) =>"
        " [code, all.map(({curve, row, points}) => [curve, row, points])])",
        node={"data": list(traces)},
        given=POINTS,
    )
    return dict(found)


def test_points_of_a_line_are_one_place_until_a_gap_or_another_row(study_page: Scope) -> None:
    rows = [[0], [0], [-1], [0], [1], [1], [None], [1], [3]]
    assert places(study_page, {"mode": "lines", "customdata": rows}) == {
        7: [[0, 0, [0, 1]], [0, 0, [3]]],
        8: [[0, 1, [4, 5]], [0, 1, [7]]],
        9: [[0, 3, [8]]],
    }
