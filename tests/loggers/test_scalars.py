"""Events as values with steps."""

from __future__ import annotations

import json
from pathlib import Path

from qsearch_loggers.scalars import Scalar, Scalars

from qsearch.monitoring.events import Event, EventKind, event_log


def training(round: int, step: int, total: int = 3) -> Event:
    return Event(EventKind.TRAINING, round, {"step": step, "total": total, "loss": 0.1 * step})


def evaluated(trial: int, loss: float = 0.5) -> Event:
    fields = {"trial": trial, "average_bits": 3.0, "loss": loss, "metric": 0.8}
    return Event(EventKind.EVALUATED, 1, fields)


def scalars_of(scalars: Scalars, *events: Event) -> list[Scalar]:
    return [scalar for event in events for scalar in scalars.of(event)]


def steps(found: list[Scalar], name: str) -> list[int]:
    return [scalar.step for scalar in found if scalar.name == name]


def test_training_steps_count_on_from_round_to_round() -> None:
    trained = Event(EventKind.TRAINED, 1, {"steps": 3})
    found = scalars_of(Scalars({}), training(1, 1), training(1, 3), trained, training(2, 1))
    assert steps(found, "training/loss") == [1, 3, 4]


def test_what_is_no_number_is_left_out() -> None:
    found = scalars_of(
        Scalars({}), evaluated(0, float("nan")), Event(EventKind.ROUND_FINISHED, 1, {})
    )
    assert "evaluation/loss" not in {scalar.name for scalar in found}
    assert "round/hypervolume" not in {scalar.name for scalar in found}


def test_earlier_sessions_are_caught_up_from_the_log_at_their_own_times(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    observe = event_log(log)
    for event in (Event(EventKind.TRAINED, 1, {"steps": 7}), evaluated(0), evaluated(1)):
        observe(event)
    lines = [json.loads(text) for text in log.read_text().splitlines()]
    early = "2020-01-01T00:00:00+00:00"
    log.write_text("".join(json.dumps(line | {"time": early}) + "\n" for line in lines))
    scalars = Scalars({"evaluation/loss": 1})
    caught = list(scalars.catch_up(tmp_path))
    assert steps(caught, "evaluation/loss") == [2]
    assert steps(caught, "evaluation/trial") == [1, 2]
    assert {scalar.time for scalar in caught} == {1577836800.0}
    assert steps(scalars_of(scalars, training(2, 2)), "training/loss") == [9]
