"""What the reader has set, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reports.page_scripts import Scope
from tests.reports.scripts.support import QUICK

pytestmark = pytest.mark.browser

CHANGES = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.none()), max_size=8
)
TOLD = """{
  const store = makeStore(initial);
  const told = [[], []];
  for (const list of told) {
    store.subscribe((changed) => list.push([[...changed].sort(), {...store.state}]));
  }
  for (const change of changes) store.set(change);
  return told;
}"""


@pytest.fixture(scope="module")
def store(script: Callable[..., Scope]) -> Scope:
    return script("store.js")


@QUICK
@given(changes=CHANGES)
def test_each_view_is_told_once_of_what_changed_when_all_of_it_has(
    store: Scope, changes: list[dict[str, Any]]
) -> None:
    initial = {"a": 0, "b": None, "c": 1}
    state, expected = dict(initial), []
    for change in changes:
        changed = sorted(key for key, value in change.items() if state[key] != value)
        state.update(change)
        if changed:
            expected.append([changed, dict(state)])
    told = store.evaluate(TOLD, initial=initial, changes=changes)
    assert told == [expected, expected]
