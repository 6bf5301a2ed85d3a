"""Elements, names of files, and calls once a frame."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reports.page_scripts import Scope
from tests.reports.scripts.support import QUICK

pytestmark = pytest.mark.browser

TAGS = '<b onclick="x()">&amp;</b>'


@pytest.fixture(scope="module")
def dom(script: Callable[..., Scope]) -> Scope:
    return script("dom.js")


def test_texts_of_an_element_are_never_markup(dom: Scope) -> None:
    found = dom.evaluate(
        '{const made = element("p", {title: tags}, tags, element("i", {}, tags));'
        " return [made.children.length, made.title, made.textContent, made.innerHTML]}",
        tags=TAGS,
    )
    count, title, text, markup = found
    assert (count, title, text) == (1, TAGS, TAGS * 2)
    assert "<b" not in markup


@QUICK
@given(name=st.text(max_size=150))
def test_any_name_becomes_one_that_file_systems_take(dom: Scope, name: str) -> None:
    found = dom.evaluate("fileName(name)", name=name)
    assert len(found) <= 100
    assert all(sign.isalnum() or sign in "._-" or sign.isnumeric() for sign in found)
    assert (found == "") == (name == "")
