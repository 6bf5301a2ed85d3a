"""Figures in the page's colours."""

from __future__ import annotations

import re
from typing import Any

import pytest
from qsearch_reports.figures import style
from qsearch_reports.page.payload import study_payload
from qsearch_reports.results import StudyResults

from tests.reports.scripts.script_scope import Scope

pytestmark = pytest.mark.browser


def figures(value: Any) -> list[dict[str, Any]]:
    if "data" in value:
        return [value]
    return [figure for each in value.values() if isinstance(each, dict) for figure in figures(each)]


def test_each_part_of_each_figure_has_a_colour_on_a_dark_ground(
    scripts: Scope, results: StudyResults
) -> None:
    """Bands, values of knobs, and what is grey or above them are seen on any ground."""
    parts = {
        trace["meta"]
        for figure in figures(study_payload(results, "a study")["figures"])
        for trace in figure["data"]
        if trace.get("meta") and (trace.get("line") or trace.get("marker"))
    }
    assert len(parts) > 8
    without = scripts.evaluate(
        "parts.filter((meta) => {const trace = {meta, line: {color: 'light'}};"
        " darken(trace); return trace.line.color === 'light'})",
        parts=sorted(parts),
    )
    assert [part for part in without if not re.fullmatch(r"band|round-phase|value-\d+", part)] == []


def test_colours_outside_of_figures_are_those_of_figures(scripts: Scope) -> None:
    assert scripts.evaluate("LIGHT") == {part: style.COLOURS[part] for part in ("seen", "unseen")}
    dark = scripts.evaluate("DARK")
    assert all(re.fullmatch(r"#[0-9A-F]{6}", colour) for colour in dark.values())
    for name, light in (("layer", style.LAYER_COLOURS), ("study", style.STUDY_COLOURS)):
        ours = [dark[f"{name}-{at}"] for at in range(len(light))]
        assert len(set(ours)) == len(light)
    assert [dark[f"loss-{at}"] for at in range(len(style.LOSS_COLOURS))]
