"""What an exception says, as one line that can be saved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch._text import in_one_line, reason_of


class Mute(Exception):  # noqa: N818
    """An exception whose message cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("two\n lines"), "ValueError: two lines"),
        (ValueError("a\0b"), "ValueError: a\\0b"),
        (ValueError("data\udcff.csv"), "ValueError: data\\udcff.csv"),
        (Mute(), "Mute: its message cannot be read"),
        (MemoryError(), "MemoryError:"),
    ],
)
def test_a_reason_is_kind_and_message(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_one_line_that_files_and_databases_hold(text: str) -> None:
    line = in_one_line(text)
    assert line.encode("utf-8").decode("utf-8") == line
    assert "\0" not in line
    assert len(line.splitlines()) <= 1


def test_a_long_text_is_cut() -> None:
    line = in_one_line("x" * 3_000_000)
    assert len(line) == 2000
    assert line.endswith("x…")
