"""Progress bars, and the lines next to them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from qsearch.cli.console import SafeConsole
from qsearch.cli.event_lines import event_text
from qsearch.cli.export_progress import export_progress
from qsearch.cli.progress_bars import StudyProgress
from qsearch.monitoring.events import Event, EventKind
from qsearch.monitoring.tracker import StudyTracker
from qsearch.spec.search_spec import SearchSpec
from tests.engine.monitoring.log_lines import Clock


@pytest.fixture
def drawn(tmp_path: Path):
    """Return what a terminal, or a file, gets of events that come a minute apart."""

    def draw(*events: Event, terminal: bool = True) -> str:
        stream, clock = io.StringIO(), Clock()
        console = SafeConsole(file=stream, force_terminal=terminal, width=200)
        tracker = StudyTracker(tmp_path, SearchSpec(rounds=3), clock)
        with StudyProgress(console, tracker) as progress:
            for event in events:
                clock.now += 60
                progress(event)
        return stream.getvalue()

    return draw


EVALUATED = Event(EventKind.EVALUATED, 1, {"trial": 0, "average_bits": 3.0, "loss": 0.5})
ROUND_FINISHED = Event(EventKind.ROUND_FINISHED, 1, {"hypervolume": 0.5, "next_set": 6})


def test_a_phase_that_does_not_count_shows_no_count(drawn) -> None:
    shown = drawn(Event(EventKind.MEASURING_QUANTIZATION_ERROR, 1))
    assert "round 1: measuring quantization error" in shown
    assert shown.count("/") == shown.count("0/3")  # Of the study's rounds.


def test_a_phase_shows_how_far_it_is_and_the_study_its_rounds_and_end(drawn) -> None:
    failed = Event(EventKind.FAILED, 1, {"trial": 1, "reason": "no memory"})
    counted = Event(EventKind.EVALUATING_THE_SET, 1, {"total": 8})
    shown = drawn(counted, EVALUATED, failed, ROUND_FINISHED)
    assert "2/8" in shown
    assert "round 1: trial 1 failed: no memory" in shown
    assert "study" in shown
    assert "1/3" in shown
    assert "about 8 min left, at " in shown


def test_without_a_terminal_phases_and_the_end_are_lines(drawn) -> None:
    searching = [Event(EventKind.SEARCHING, 1, {"done": n, "total": 2}) for n in (0, 1)]
    shown = drawn(*searching, EVALUATED, ROUND_FINISHED, terminal=False)
    phase, finished, left = shown.splitlines()
    assert phase == "round 1: searching"
    assert finished == "round 1: hypervolume 0.5000, next set 6 configurations"
    assert left.startswith("about 8 min left, at ")


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        (EventKind.TRAINED, {"steps": 9, "seconds": 75.0}, "round 2: trained 9 steps in 1 min"),
        (EventKind.SEARCHED, {"candidates": 2}, "round 2: found 2 candidates"),
        (
            EventKind.RETRYING,
            {"trials": [3, 4]},
            "round 2: trying again what failed: 2 evaluations",
        ),
        (
            EventKind.RETRY,
            {"trial": 3, "attempt": 2, "reason": "slow"},
            "round 2: trial 3 failed at attempt 2 and is tried again: slow",
        ),
        (
            EventKind.REFERENCE_FAILED,
            {"reason": "memory"},
            "round 2: the model that evaluations are compared with could not be evaluated: memory",
        ),
        (EventKind.WORKER_LOST, {"reason": "killed"}, "round 2: a worker is lost: killed"),
        (EventKind.WORKER_GIVEN_UP, {"reason": "gone"}, "round 2: a worker is given up: gone"),
        (EventKind.WAITING_FOR_WORKERS, {}, "round 2: waiting for workers"),
        (EventKind.STORAGE_LOST, {"reason": "x"}, "the database is lost: x; waiting for it"),
        (EventKind.STORAGE_BACK, {"seconds": 75.0}, "the database is back after 1 min"),
        (
            EventKind.ENVIRONMENT_CHANGED,
            {"changed": ["torch: 2.9 → 2.10", "GPU"]},
            "changed since the last session: torch: 2.9 → 2.10; GPU",
        ),
        (EventKind.LIMITS_CHANGED, {"changed": ["a: 1 → 2", "b"]}, "limits changed: a: 1 → 2; b"),
        (EventKind.TAKEN_OVER, {"owner": "process 7"}, "taken over from one that died: process 7"),
        (EventKind.MEASURED_SENSITIVITY, {"seconds": 4.0}, None),
    ],
)
def test_some_events_are_worth_a_line(
    kind: EventKind, fields: dict[str, Any], text: str | None
) -> None:
    assert event_text(Event(kind, 2, fields)) == text


def test_an_event_that_cannot_be_shown_ends_the_display_and_no_study(
    drawn, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Event(EventKind.TRAINING, 1, {"step": 1, "total": 3, "loss": "high"})
    shown = drawn(odd, odd, Event(EventKind.WORKER_LOST, 1, {"reason": "killed"}), terminal=False)
    assert "killed" not in shown
    (warning,) = capsys.readouterr().err.splitlines()
    assert "progress is not shown any more, the study continues: ValueError" in warning


@pytest.mark.parametrize("terminal", [True, False])
def test_an_export_shows_its_phases_and_on_a_terminal_its_layers(terminal: bool) -> None:
    stream = io.StringIO()
    console = SafeConsole(file=stream, force_terminal=terminal, width=200)
    with export_progress(console) as show:
        show("loading the model")
        for done in range(1, 9):
            show("writing", done, 8)
    if terminal:
        assert "writing: layer 8 of 8" in stream.getvalue()
    else:
        assert stream.getvalue() == "loading the model\nwriting\n"
