"""Progress bars."""

from __future__ import annotations

import io

from rich.console import Console

from qsearch.events import Event
from qsearch.progress import StudyProgress


def drawn(*events: Event) -> str:
    """Return what a terminal gets."""
    stream = io.StringIO()
    with StudyProgress(Console(file=stream, force_terminal=True, width=200)) as progress:
        for event in events:
            progress(event)
    return stream.getvalue()


def test_a_phase_that_does_not_count_shows_no_count() -> None:
    shown = drawn(Event("measuring quantization error", 0))
    assert "measuring quantization error" in shown
    assert "0/" not in shown


def test_a_phase_that_counts_shows_how_far_it_is() -> None:
    assert "3/8" in drawn(Event("searching", 0, {"done": 3, "total": 8}))
