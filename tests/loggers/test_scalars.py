"""Events as figures with steps."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from qsearch_loggers.scalars import Scalar, Scalars

from qsearch.monitoring.events import Event, EventKind, event_log


def training(round: int, step: int, total: int = 3) -> Event:
    return Event(EventKind.TRAINING, round, {"step": step, "total": total, "loss": 0.1 * step})


def evaluated(trial: int, loss: float = 0.5) -> Event:
    fields = {"trial": trial, "average_bits": 3.0, "loss": loss, "metric": 0.8}
    return Event(EventKind.EVALUATED, 0, fields)


def figures(scalars: Scalars, *events: Event) -> list[Scalar]:
    return [figure for event in events for figure in scalars.of(event)]


def steps(found: list[Scalar], name: str) -> list[int]:
    return [figure.step for figure in found if figure.name == name]


def test_training_steps_count_on_from_round_to_round() -> None:
    trained = Event(EventKind.TRAINED, 0, {"steps": 3})
    found = figures(Scalars({}), training(0, 1), training(0, 3), trained, training(1, 1))
    assert steps(found, "training/loss") == [1, 3, 4]


def test_a_resumed_training_logs_no_step_twice() -> None:
    found = figures(Scalars({"training/loss": 2}), training(0, 1), training(0, 2), training(0, 3))
    assert steps(found, "training/loss") == [3]


def test_evaluations_and_failures_share_their_steps() -> None:
    failed = Event(EventKind.FAILED, 0, {"trial": 1, "reason": "no memory"})
    found = figures(Scalars({}), evaluated(0), failed, evaluated(2))
    assert steps(found, "evaluation/loss") == [1, 3]
    assert [(f.step, f.value) for f in found if f.name == "failures"] == [(2, 1.0)]
    assert [f.value for f in found if f.name == "evaluation/trial"] == [0.0, 2.0]


def test_what_is_no_number_is_left_out() -> None:
    found = figures(Scalars({}), evaluated(0, float("nan")), Event(EventKind.ROUND_FINISHED, 0, {}))
    assert "evaluation/loss" not in {figure.name for figure in found}
    assert "round/hypervolume" not in {figure.name for figure in found}


def test_earlier_sessions_are_caught_up_from_the_log_at_their_own_times(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    observe = event_log(log)
    for event in (Event(EventKind.TRAINED, 0, {"steps": 7}), evaluated(0), evaluated(1)):
        observe(event)
    lines = [json.loads(text) for text in log.read_text().splitlines()]
    early = "2020-01-01T00:00:00+00:00"
    log.write_text("".join(json.dumps(line | {"time": early}) + "\n" for line in lines))
    scalars = Scalars({"evaluation/loss": 1})
    caught = list(scalars.catch_up(tmp_path))
    assert steps(caught, "evaluation/loss") == [2]
    assert steps(caught, "evaluation/trial") == [1, 2]
    assert {figure.time for figure in caught} == {1577836800.0}
    assert steps(figures(scalars, training(1, 2)), "training/loss") == [9]


events = st.one_of(
    st.builds(training, st.integers(0, 2), st.integers(1, 3)),
    st.builds(evaluated, st.integers(0, 9)),
    st.builds(lambda n: Event(EventKind.FAILED, 0, {"trial": n, "reason": ""}), st.integers(0, 9)),
    st.builds(lambda r: Event(EventKind.TRAINED, r, {"steps": 3}), st.integers(0, 2)),
    st.builds(
        lambda r: Event(EventKind.ROUND_FINISHED, r, {"hypervolume": 0.5}), st.integers(0, 2)
    ),
)


@given(st.lists(events, max_size=30))
def test_steps_of_a_name_only_rise(told: list[Event]) -> None:
    found = figures(Scalars({}), *told)
    for name in {figure.name for figure in found}:
        assert all(a < b for a, b in pairwise(steps(found, name)))
