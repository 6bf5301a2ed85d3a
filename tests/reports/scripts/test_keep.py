"""A newer report takes over what the reader has set, by names and trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.reports.page_scripts import Scope

pytestmark = pytest.mark.browser

HTML = """
<section>
  <details data-part="origin"></details>
  <fieldset data-part="knobs"><input type="radio" name="k" value="0">
    <input type="radio" name="k" value="1"></fieldset>
  <fieldset data-part="drag"><input type="radio" name="d" value="select">
    <input type="radio" name="d" value="zoom"></fieldset>
  <fieldset data-switch="progress"><input type="radio" name="p" value="evaluation">
    <input type="radio" name="p" value="minutes"></fieldset>
</section>
"""
SETUP = """
globalThis.keepingOf = (study, state) => {
  const root = document.querySelector("section");
  const store = makeStore({...state, selected: new Set(state.selected)});
  const told = {};
  const keeps = (name) => ({
    kept: () => `of the ${name}`, restore: (kept) => { told[name] = kept; },
  });
  const others = {budget: keeps("budget"), table: keeps("table")};
  const keeping = makeKeeping(root, study, store, others);
  const checked = () => Array.from(root.querySelectorAll(":checked"), (input) => input.value);
  const now = () => ({...store.state, selected: [...store.state.selected]});
  return {keeping, told, root, checked, now};
};
"""
STATE = {
    "chosen": 4,
    "by": "reader",
    "pinned": 5,
    "selected": [1, 2],
    "round": 0,
    "knob": 1,
    "drag": "zoom",
    "progress": "minutes",
}


def study(rows: list[tuple[int, int, int]], rounds: list[int], knobs: list[str]) -> dict[str, Any]:
    """A study from rows of (trial, round, configuration)."""
    trials, at, codes = zip(*rows, strict=True)
    return {
        "count": len(rows),
        "knobs": [{"name": name} for name in knobs],
        "drawn_rounds": [{"round": number} for number in rounds],
        "points": {
            "trial": trials,
            "round": at,
            "configuration": codes,
            "latest": [number == rounds[-1] for number in at],
        },
    }


OLD = study(
    [(0, 0, 0), (1, 0, 1), (2, 0, 2), (0, 1, 0), (1, 1, 1), (2, 1, 2)], [0, 1], ["bits", "block"]
)
# One more round, without trial 0; and rows, codes and knobs in another order.
NEW = study(
    [(2, 0, 0), (1, 0, 1), (0, 0, 2), (3, 2, 3), (2, 2, 0), (1, 2, 1)],
    [0, 1, 2],
    ["block", "bits"],
)


@pytest.fixture(scope="module")
def page(script: Callable[..., Scope]) -> Scope:
    scope = script("study.js", html=HTML)
    scope.evaluate(f"{{{SETUP}}}")
    return scope


def kept(page: Scope, given: dict[str, Any], **state: Any) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        "keepingOf(study, state).keeping.kept()", study=given, state={**STATE, **state}
    )
    return found


def restored(page: Scope, given: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return what a new page has, once settings are restored in it."""
    fresh = {
        **STATE,
        "chosen": 3,
        "by": "budget",
        "pinned": None,
        "selected": [],
        "round": given["drawn_rounds"][-1]["round"],
        "knob": 0,
        "drag": "select",
        "progress": "evaluation",
    }
    found: dict[str, Any] = page.evaluate(
        "{const made = keepingOf(study, fresh); made.keeping.restore(settings);"
        " return {...made.now(), told: made.told, open: made.root.querySelector('details').open,"
        " checked: made.checked()}}",
        study=given,
        fresh=fresh,
        settings=settings,
    )
    return found


def test_a_newer_report_finds_the_same_trials_and_knobs_elsewhere(page: Scope) -> None:
    found = restored(page, NEW, kept(page, OLD))
    assert (found["chosen"], found["by"], found["pinned"]) == (5, "reader", 4)
    assert sorted(found["selected"]) == [0, 1]
    assert (found["knob"], found["round"]) == (0, 0)


def test_what_a_newer_report_lacks_is_left_as_it_is_there(page: Scope) -> None:
    lost = kept(page, OLD, chosen=3, pinned=3, selected=[0, 1])
    found = restored(page, NEW, {**lost, "knob": "gone", "round": 9})
    assert (found["chosen"], found["by"], found["pinned"]) == (3, "budget", None)
    assert found["selected"] == [1]
    assert (found["knob"], found["round"]) == (0, 2)


def test_a_reader_at_the_latest_round_stays_at_the_latest(page: Scope) -> None:
    assert kept(page, OLD, round=1)["round"] is None
    assert restored(page, NEW, kept(page, OLD, round=1))["round"] == 2
