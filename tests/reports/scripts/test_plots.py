"""Figures in the page's colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from qsearch_reports.figures import style

from tests.reports.page_scripts import Scope

pytestmark = pytest.mark.browser

COLOURS = ("--text", "--card", "--quiet")
HTML = "<style>:root { " + " ".join(f"{name}: of{name};" for name in COLOURS) + " }</style>"


@pytest.fixture(scope="module")
def plots(script: Callable[..., Scope]) -> Scope:
    return script("study.js", html=HTML)


def figures(value: Any) -> list[dict[str, Any]]:
    if "data" in value:
        return [value]
    return [figure for each in value.values() if isinstance(each, dict) for figure in figures(each)]


def test_each_part_of_each_figure_has_a_colour_on_a_dark_ground(
    plots: Scope, payload: dict[str, Any]
) -> None:
    """Bands, values of knobs, and what is grey or above them are seen on any ground."""
    parts = {
        trace["meta"]
        for figure in figures(payload["figures"])
        for trace in figure["data"]
        if trace.get("meta") and (trace.get("line") or trace.get("marker"))
    }
    assert len(parts) > 8
    without = plots.evaluate(
        "parts.filter((meta) => {const trace = {meta, line: {color: 'light'}};"
        " darken(trace); return trace.line.color === 'light'})",
        parts=sorted(parts),
    )
    assert [part for part in without if not re.fullmatch(r"band|round-phase|value-\d+", part)] == []


def test_colours_outside_of_figures_are_those_of_figures(plots: Scope) -> None:
    assert plots.evaluate("LIGHT") == {part: style.COLOURS[part] for part in ("seen", "unseen")}
    dark = plots.evaluate("DARK")
    assert all(re.fullmatch(r"#[0-9A-F]{6}", colour) for colour in dark.values())
    for name, light in (("layer", style.LAYER_COLOURS), ("study", style.STUDY_COLOURS)):
        ours = [dark[f"{name}-{at}"] for at in range(len(light))]
        assert len(set(ours)) == len(light)
    assert [dark[f"loss-{at}"] for at in range(len(style.LOSS_COLOURS))]


def test_a_dark_colour_is_that_of_all_that_a_trace_has(plots: Scope) -> None:
    light = {"color": "light"}
    trace = {
        "meta": "seen",
        "line": light,
        "marker": {**light, "line": light},
        "error_x": light,
        "error_y": light,
        "fill": "toself",
    }
    colour = plots.evaluate("DARK.seen")
    made = plots.evaluate("{darken(trace); return trace}", trace=trace)
    assert made == {
        "meta": "seen",
        "line": {"color": colour},
        "marker": {"color": colour, "line": {"color": colour}},
        "error_x": {"color": colour},
        "error_y": {"color": colour},
        "fill": "toself",
        "fillcolor": colour,
    }
    for part in ("another", None):
        other = {**trace, "meta": part}
        assert plots.evaluate("{darken(trace); return trace}", trace=other) == other
    assert plots.evaluate("{const of = {meta: 'round-12', line: {}}; darken(of); return of}") == {
        "meta": "round-12",
        "line": {"color": plots.evaluate("DARK.line")},
    }


def test_a_figure_is_shown_by_a_copy_without_its_title_in_the_pages_colours(plots: Scope) -> None:
    figure = {
        "data": [{"marker": {"color": "own"}}],
        "layout": {
            "title": {"text": "of the card"},
            "font": {"size": 13},
            "annotations": [{"text": "a", "bgcolor": "white"}, {"text": "b"}],
            "margin": {"b": 99},
        },
    }
    made, after = plots.evaluate("[themed(figure), figure]", figure=figure)
    assert after == figure
    layout = made["layout"]
    assert "title" not in layout
    assert layout["font"] == {"size": 13, "color": "of--text"}
    assert layout["hoverlabel"]["bgcolor"] == "of--card"
    assert layout["annotations"] == [{"text": "a", "bgcolor": "of--card"}, {"text": "b"}]
    assert layout["margin"]["b"] == 99
