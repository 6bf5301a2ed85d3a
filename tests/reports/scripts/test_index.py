"""Searching the page of a folder's studies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.reports.page_scripts import Scope

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def index(script: Callable[..., Scope]) -> Scope:
    return script("index.js")


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ("", True),
        ("   ", True),
        ("LLAMA", True),
        ("2.5 llama", True),
        ("lla 2.", True),
        ("llama 3.5", False),
        ("llama2.5", False),
        ("ünï", True),
        (".*", False),
    ],
)
def test_a_study_is_found_by_all_words_in_any_order_and_case(
    index: Scope, query: str, holds: bool
) -> None:
    text = "llama runs/b 2.5 ünïcode"
    assert index.evaluate("holdsWords(text, query)", text=text, query=query) is holds
