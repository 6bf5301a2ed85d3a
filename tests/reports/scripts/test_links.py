"""What a drag in a figure selects, and what a key chooses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reports.scripts.script_scope import Scope

pytestmark = pytest.mark.browser


def node(*traces: dict[str, Any]) -> dict[str, Any]:
    return {"data": list(traces)}


def within(scripts: Scope, figure: dict[str, Any], selection: dict[str, Any]) -> list[int]:
    found: list[int] = scripts.evaluate(
        "{node.places = findPlaces(node, study); return [...codesWithin(node, study, selection)]}",
        node=figure,
        study=STUDY,
        selection=selection,
    )
    return sorted(found)


STUDY = {"points": {"configuration": [5, 6, 7, 5], "average_bits": [4, 3, 2, 4]}}


def test_a_selection_has_the_codes_of_the_points_within_it_in_any_trace(scripts: Scope) -> None:
    figure = node(
        {"x": [1, 2], "y": [1, 2], "customdata": [[0], [1]]},
        {"x": [9, 3], "y": [9, 3], "customdata": [[3], [2]]},
        {"x": [1], "y": [1], "customdata": [[2]], "meta": "layer-0"},
        {"x": [1], "y": [1]},
    )
    assert within(scripts, figure, {"range": {"x": [0, 2], "y": [0, 2]}}) == [5, 6]
    assert within(scripts, figure, {"range": {"x": [2.5, 10], "y": [0, 10]}}) == [5, 7]
    assert within(scripts, figure, {"range": {"x": [4, 5], "y": [0, 10]}}) == []
    lasso = {"x": [1.5, 4, 4, 1.5], "y": [1.5, 1.5, 4, 4]}
    assert within(scripts, figure, {"lassoPoints": lasso}) == [6, 7]


def test_a_line_is_selected_by_any_of_its_points(scripts: Scope) -> None:
    line = {
        "mode": "lines",
        "x": [0, 1, None, 0, 1],
        "y": [0, 5, None, 5, 0],
        "customdata": [[0], [0], [-1], [1], [1]],
    }
    assert within(scripts, node(line), {"range": {"x": [0.9, 1.1], "y": [4, 6]}}) == [5]
    assert within(scripts, node(line), {"range": {"x": [-1, 2], "y": [4, 6]}}) == [5, 6]


def test_a_bar_is_selected_by_its_middle_too_unless_an_end_is_missing(scripts: Scope) -> None:
    bar = {"mode": "lines", "x": [0, 8], "y": [1, 1], "customdata": [[0], [0]]}
    assert within(scripts, node(bar), {"range": {"x": [3, 5], "y": [0, 2]}}) == [5]
    assert within(scripts, node(bar), {"range": {"x": [3, 5], "y": [2, 3]}}) == []
    slope = {**bar, "y": [0, 8]}
    assert within(scripts, node(slope), {"range": {"x": [3, 5], "y": [3, 5]}}) == [5]
    assert within(scripts, node(slope), {"range": {"x": [3, 5], "y": [6, 8]}}) == []
    missing = {**bar, "y": [None, 2]}
    assert within(scripts, node(missing), {"range": {"x": [3, 5], "y": [0, 2]}}) == []


def test_points_of_a_line_are_one_place_until_a_gap_or_another_row(scripts: Scope) -> None:
    rows = [[0], [0], [-1], [0], [1], [1], [None], [1], [3]]
    places = scripts.evaluate(
        "[...findPlaces(node, study)].map(([code, all]) =>"
        " [code, all.map(({curve, row, points}) => [curve, row, points])])",
        node=node({"mode": "lines", "customdata": rows}),
        study={"points": {"configuration": [7, 8, 7, 9]}},
    )
    assert places == [
        [7, [[0, 0, [0, 1]], [0, 0, [3]]]],
        [8, [[0, 1, [4, 5]], [0, 1, [7]]]],
        [9, [[0, 3, [8]]]],
    ]


def going_on(scripts: Scope, traces: list[dict[str, Any]], step: int, **state: Any) -> Any:
    """Return what the store has after a key, and whether the figure took it."""
    return scripts.evaluate(
        "{const store = makeStore(state); const node = {data: traces};"
        " node.places = findPlaces(node, study);"
        " const took = goToNext(node, study, store, step);"
        " return [took, {...store.state, selected: [...store.state.selected ?? []]}]}",
        traces=traces,
        study={**STUDY, "training_sets": {"10": [7], "2": [5, 6]}},
        step=step,
        state=state,
    )


MARKERS = [{"x": [4, 3, 2], "y": [0, 0, 0], "customdata": [[0], [1], [2]]}]
# A configuration's line goes through all axes: its average bits say where it is.
LINES = [
    {
        "mode": "lines",
        "x": [0, 1, 2, None] * 3,
        "y": [0] * 12,
        "customdata": [[row] for row in (0, 0, 0, -1, 1, 1, 1, -1, 2, 2, 2, -1)],
    }
]


@pytest.mark.parametrize(
    ("chosen", "step", "next_row"),
    [(None, 1, 2), (2, 1, 1), (1, 1, 0), (0, 1, 0), (3, -1, 1), (2, -1, 2)],
)
@pytest.mark.parametrize("traces", [MARKERS, LINES])
def test_keys_go_from_left_to_right_and_stop_at_the_ends(
    scripts: Scope, traces: list[dict[str, Any]], chosen: int | None, step: int, next_row: int
) -> None:
    took, state = going_on(scripts, traces, step, chosen=chosen)
    assert (took, state["chosen"], state["by"]) == (True, next_row, "reader")
