"""Searching the page of a folder's studies."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reports.scripts.script_scope import QUICK, Scope

pytestmark = pytest.mark.browser


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
    scripts: Scope, query: str, holds: bool
) -> None:
    text = "llama runs/b 2.5 ünïcode"
    assert scripts.evaluate("holdsWords(text, query)", text=text, query=query) is holds


@QUICK
@given(words=st.lists(st.text(max_size=12), min_size=20, max_size=60))
def test_a_shell_reads_words_as_they_were(scripts: Scope, words: list[str]) -> None:
    command = scripts.evaluate("reportCommand(words)", words=words)
    assert command == shlex.join(["qsearch", "report", *words])


@pytest.mark.parametrize("descending", [False, True])
def test_missing_values_come_last_and_equal_ones_stay(scripts: Scope, descending: bool) -> None:
    for values, order in (
        ((2, None, 1, 2, None), ([2, 0, 3, 1, 4], [0, 3, 2, 1, 4])),
        (("b10", "", "B9", "a"), ([3, 2, 0, 1], [0, 2, 3, 1])),
    ):
        rows = [{"v": value} for value in values]
        found = scripts.evaluate("sortedRows(rows, 'v', down)", rows=rows, down=descending)
        assert found == order[descending]
