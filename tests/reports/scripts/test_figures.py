"""Which figure is shown, and what of its node is its heading and its caption."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.reports.page_scripts import Scope, ScriptError

pytestmark = pytest.mark.browser

STUDY = {
    "knobs": [{"name": "bits"}, {"name": "block"}],
    "figures": {
        "training": "alone",
        "loss": {"by": "round", "variants": {"0": "first", "3": "last"}},
        "marginals": {"by": "knob", "variants": {"bits": "of bits", "block": "of block"}},
        "progress": {"by": "progress", "variants": {"minutes": "by time", "round": "by round"}},
    },
}
HTML = """
<article id="card"><div class="head"><h2>Of the card</h2></div>
  <p>Words.</p><div class="plot" id="first"></div></article>
<article><h2>Above</h2><h3>Nearest</h3><div class="plot" id="second"></div></article>
<article><div class="plot" id="bare" data-figure="bare"></div></article>
"""


@pytest.fixture(scope="module")
def page(script: Callable[..., Scope]) -> Scope:
    return script("study.js", html=HTML)


@pytest.mark.parametrize(
    ("key", "state", "shown"),
    [
        ("training", {}, "alone"),
        ("loss", {}, "last"),
        ("loss", {"round": 0}, "first"),
        ("marginals", {}, "of bits"),
        ("marginals", {"knob": 1}, "of block"),
        ("progress", {}, "by time"),
        ("progress", {"progress": "round"}, "by round"),
        ("sensitivity", {}, None),
    ],
)
def test_a_figure_follows_the_round_the_knob_or_its_switch(
    page: Scope, key: str, state: dict[str, Any], shown: str | None
) -> None:
    full = {"round": 3, "knob": 0, "progress": "minutes", **state}
    found = page.evaluate("figureOf(study, key, state)", study=STUDY, key=key, state=full)
    assert found == shown


def test_a_figures_head_is_the_nearest_above_it_made_where_a_heading_has_none(page: Scope) -> None:
    script = """{
      const heads = ["first", "second", "second"].map((id) => headOf(document.getElementById(id)));
      return [heads.map((head) => head.textContent), heads[1] === heads[2]];
    }"""
    assert page.evaluate(script) == [["Of the card", "Nearest", "Nearest"], True]
    with pytest.raises(ScriptError, match="the figure bare has no heading"):
        page.evaluate("{headOf(document.getElementById('bare'))}")


@pytest.mark.parametrize(
    ("traces", "drag", "does"),
    [
        ([{"customdata": [[0]]}], "select", "select"),
        ([{"customdata": [[0]]}], "lasso", "lasso"),
        ([{}, {"customdata": [[-1], [3]]}], "select", "select"),
        ([{"customdata": [[-1], None]}], "select", "zoom"),
        ([{"customdata": [[0]], "meta": "layer-1"}], "lasso", "zoom"),
        ([{}], "select", "zoom"),
        ([{}], "pan", "pan"),
    ],
)
def test_dragging_zooms_where_there_is_nothing_to_select(
    page: Scope, traces: list[dict[str, Any]], drag: str, does: str
) -> None:
    assert page.evaluate("dragIn(traces, {drag})", traces=traces, drag=drag) == does


def test_a_figure_has_one_caption_right_below_it(page: Scope) -> None:
    script = """{
      const node = document.getElementById("first");
      const [one, other] = [caption(node), caption(node)];
      return [one === other, one === node.nextElementSibling, one.className];
    }"""
    assert page.evaluate(script) == [True, True, "caption"]
