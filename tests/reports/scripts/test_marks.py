"""Where a figure's marks are drawn."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from qsearch_reports.results import StudyResults

from qsearch.storage.study_record import row_configuration
from tests.reports.page_scripts import Scope

pytestmark = pytest.mark.browser

POINTS = {"points": {"configuration": [7, 8, 7, 9]}}
LAYOUT = """
const axis = (length, scale) => ({
  _length: length, d2p: (at) => (at === null ? NaN : at * scale), c2p: (at) => at * scale,
});
node._fullLayout = {
  xaxis: axis(500, 10), yaxis: axis(300, 100), xaxis2: axis(500, 1000), yaxis2: axis(300, 1),
};
"""


def places(study_page: Scope, *traces: dict[str, Any]) -> dict[int, list[list[Any]]]:
    found = study_page.evaluate(
        "[...findPlaces(node, given)].map(([code, all]) =>"
        " [code, all.map(({curve, row, points}) => [curve, row, points])])",
        node={"data": list(traces)},
        given=POINTS,
    )
    return dict(found)


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", path)]


def test_points_of_a_line_are_one_place_until_a_gap_or_another_row(study_page: Scope) -> None:
    rows = [[0], [0], [-1], [0], [1], [1], [None], [1], [3]]
    assert places(study_page, {"mode": "lines", "customdata": rows}) == {
        7: [[0, 0, [0, 1]], [0, 0, [3]]],
        8: [[0, 1, [4, 5]], [0, 1, [7]]],
        9: [[0, 3, [8]]],
    }


def mean_bits(results: StudyResults, rows: list[int]) -> list[float]:
    chosen = results.record.latest.sort_values("trial").iloc[rows]
    table = [
        [configuration[layer.name]["bits"] for layer in results.record.layers]
        for configuration in (row_configuration(row) for _, row in chosen.iterrows())
    ]
    return [float(value) for value in np.mean(np.array(table, dtype=float), axis=0)]


LAYER_FIGURE = {
    "data": [
        {"x": [1, 2], "y": [0.5, 0.6], "customdata": [[4], [9]], "meta": "layer-0"},
        {"x": [3], "y": [0.7], "customdata": [[0]], "meta": "seen"},
    ]
}


def layer_marks(study_page: Scope, **state: Any) -> dict[str, str]:
    found = study_page.evaluate(
        f"{{{LAYOUT} state.selected = new Set(state.selected);"
        " state.chosen = latestRows(study)[state.chosen];"
        " return layerMarks(node, study, state)}",
        node=LAYER_FIGURE,
        state={"chosen": 3, "selected": [], "layer": None, **state},
    )
    return dict(found)


def test_layers_are_marked_at_what_the_chosen_configuration_has(
    study_page: Scope, results: StudyResults
) -> None:
    found = layer_marks(study_page, layer=9)
    bits = mean_bits(results, [3])
    expected = [f"M{x * 10 - 5} {bits[layer] * 100:g}h10" for x, layer in ((1, 4), (2, 9))]
    assert found["chosen thin"] == "".join(expected)
    assert numbers(found["layer"])[:2] == [20 - 9.5, 60]
