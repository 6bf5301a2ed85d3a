"""Progress bars, and what is said beside them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from qsearch.cli.progress import StudyProgress
from qsearch.monitoring.events import Event, EventKind
from tests.engine.support import study_spec
from tests.engine.told_study import ToldStudy


def drawn(*events: Event, terminal: bool = True, **options: object) -> str:
    """Return what a terminal, or a file, gets."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200)
    with StudyProgress(console, **options) as progress:
        for event in events:
            progress(event)
    return stream.getvalue()


def test_a_phase_that_does_not_count_shows_no_count() -> None:
    shown = drawn(Event(EventKind.MEASURING_QUANTIZATION_ERROR, 0))
    assert "measuring quantization error" in shown
    assert "0/" not in shown


def test_a_phase_that_counts_shows_how_far_it_is() -> None:
    assert "3/8" in drawn(Event(EventKind.SEARCHING, 0, {"done": 3, "total": 8}))


def test_a_training_on_workers_shows_how_many_are_trained() -> None:
    shown = drawn(Event(EventKind.TRAINING_CONFIGURATIONS, 0, {"done": 2, "total": 6}))
    assert "round 1: training configurations" in shown
    assert "2/6" in shown


def test_a_failure_counts_as_done() -> None:
    shown = drawn(
        Event(EventKind.EVALUATING_THE_SET, 0, {"total": 3}),
        Event(EventKind.EVALUATED, 0, evaluated(0)),
        Event(EventKind.FAILED, 0, {"trial": 1, "reason": "no memory"}),
    )
    assert "2/3" in shown
    assert "round 1: trial 1 failed: no memory" in shown


def evaluated(trial: int) -> dict[str, object]:
    return {"trial": trial, "average_bits": 3.0, "loss": 0.5, "done": trial + 1, "total": 3}


def test_the_whole_study_is_shown_with_its_round_and_its_end() -> None:
    spec = study_spec(search__rounds=1, search__candidates=0, search__initial=3).search
    shown = drawn(
        Event(EventKind.ROUND_STARTED, 0, {"training_set": 3}),
        Event(EventKind.EVALUATING_THE_SET, 0, {"total": 3}),
        Event(EventKind.EVALUATED, 0, evaluated(0)),
        search=spec,
    )
    assert "study" in shown
    assert "round 2 of 1, until about " in shown
    assert " s left" in shown


def test_without_a_terminal_the_end_is_told_round_by_round(tmp_path: Path) -> None:
    """Earlier sessions count: one round of theirs is known, so the next can be foretold."""
    told = ToldStudy(rounds=2)
    lines = list(told.events())
    cut = next(at for at, line in enumerate(lines) if line["event"] == "round finished")
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines[:cut]))
    event = Event(EventKind.ROUND_FINISHED, 0, {"hypervolume": 0.5, "next_set": told.members})
    shown = drawn(event, terminal=False, search=told.spec, log=log)
    first, second = shown.splitlines()
    assert first == "round 1: hypervolume 0.5000, next set 6 configurations"
    # 50 s of training, 4 s of sensitivity, 60 s + 30 s of evaluations, 21 s of search, and an end.
    assert second.startswith("about 3 min left, at ")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event(EventKind.RETRYING, 1, {"trials": [3, 4]}), "round 2: trying again what failed: 2"),
        (
            Event(EventKind.RETRY, 1, {"trial": 3, "attempt": 2, "reason": "slow"}),
            "round 2: trial 3 failed at attempt 2 and is tried again: slow",
        ),
        (
            Event(EventKind.RETRY, 1, {"attempt": 1, "reason": "slow"}),
            "round 2: an evaluation failed at attempt 1 and is tried again: slow",
        ),
        (
            Event(EventKind.STORAGE_LOST, 1, {"reason": "refused", "seconds": 900}),
            "the database is lost: refused; waiting for it, 15 min at most",
        ),
        (
            Event(EventKind.STORAGE_LOST, 1, {"reason": "refused"}),
            "is lost: refused; waiting for it\n",
        ),
        (Event(EventKind.STORAGE_BACK, 1, {"seconds": 75.0}), "the database is back after 1 min"),
        (
            Event(EventKind.TAKEN_OVER, 0, {"owner": "process 7"}),
            "taken over from one that died: process 7",
        ),
        (
            Event("probe failed", 1, {"probe": 3, "reason": "no loss"}),
            "round 2: probe 3 failed: no loss",
        ),
        (
            Event(EventKind.WORKER_GIVEN_UP, 1, {"reason": "gone"}),
            "round 2: a worker is given up: gone",
        ),
        (
            Event(EventKind.WORKER_LOST, 1, {"reason": "killed"}),
            "round 2: a worker is lost: killed",
        ),
        (Event(EventKind.WAITING_FOR_WORKERS, 1), "round 2: waiting for workers"),
        (Event(EventKind.STATE_DAMAGED, 1, {"file": "state/x.json"}), "state/x.json is damaged"),
        (Event(EventKind.LIMITS_CHANGED, 1, {"changed": ["a: 1 → 2"]}), "limits changed: a: 1 → 2"),
    ],
    ids=lambda value: value.kind if isinstance(value, Event) else "",
)
def test_what_goes_wrong_is_said_in_words(event: Event, text: str) -> None:
    assert text in drawn(event, terminal=False)


@pytest.mark.parametrize(
    "kind", ["trained", "searched", "failed", "retry", "retrying", "storage lost", "storage back"]
)
def test_a_missing_figure_ends_no_study(kind: str) -> None:
    assert drawn(Event(kind, 0), terminal=False).strip()


def test_a_figure_that_cannot_be_shown_ends_the_display_and_no_study(
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd = Event(EventKind.TRAINING, 0, {"step": 1, "total": 3, "loss": "high"})
    shown = drawn(odd, odd, Event(EventKind.WORKER_LOST, 0, {"reason": "killed"}), terminal=False)
    assert "killed" not in shown
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("qsearch: progress is shown no longer, the study goes on: ValueError")


def test_escapes_in_a_reason_do_not_reach_the_terminal() -> None:
    shown = drawn(Event(EventKind.FAILED, 0, {"trial": 1, "reason": "\x1b[2Jgone"}), terminal=False)
    assert "gone" in shown
    assert "\x1b" not in shown
