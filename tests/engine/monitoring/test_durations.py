"""Durations and times of day as text."""

from __future__ import annotations

import pytest

from qsearch.monitoring.durations import duration_text, left_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (720, "12 min"),
        (3599, "1 h"),
        (4320, "1 h 12 min"),
        (86400 * 2, "2 d"),
        (86400 * 3 + 3600 * 4, "3 d 4 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (720, "about 12 min left, at 08:12 UTC"),
        (86400, "about 24 h left, at 2027-01-16 08:00 UTC"),
    ],
)
def test_an_end_on_another_day_has_its_date(seconds: float, text: str) -> None:
    assert left_text(seconds, now=1.8e9) == text
