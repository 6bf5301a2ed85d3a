"""What a round's model scores where nothing is quantized, in whole studies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.plugins.evaluation import Evaluation, MetricValue
from qsearch.plugins.registry import load_plugin
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.study_record import read_study
from qsearch.study.full_precision import full_precision
from qsearch.study.run import run_spec
from tests.engine.fake_study import (
    FAULTS,
    SMALL,
    evaluations_of,
    events_of,
    results,
    study_spec,
    trains_nothing,
)


def test_each_round_has_the_score_of_its_own_adapter(finished: Path) -> None:
    for round, entry in enumerate(read_study(finished).rounds, start=1):
        gain = float(read_adapter(finished, round)[0].tensors["gain"])
        assert entry.full_precision == Evaluation(
            0.3 + gain / 1000, 0.01, {"accuracy": MetricValue(0.75, 0.02)}, 0.5
        )
        assert events_of(finished, "measured full precision")[round - 1]["loss"] == (
            entry.full_precision.loss
        )


def test_where_nothing_is_trained_it_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains_nothing(monkeypatch)
    run_spec(study_spec(**SMALL), tmp_path)
    first, second = read_study(tmp_path).rounds
    assert first.full_precision == second.full_precision is not None
    assert len(events_of(tmp_path, "measuring full precision")) == 1


def test_a_failure_is_measured_again_in_the_next_round_also_where_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains_nothing(monkeypatch)
    run_spec(study_spec(**SMALL, trainer__full_precision="error"), tmp_path)
    assert len(events_of(tmp_path, "measuring full precision")) == 2


def test_it_counts_for_no_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = evaluations_of(monkeypatch)
    run_spec(study_spec(**SMALL, search__stop={"evaluations": 9}), tmp_path)
    assert len(seen) == len(read_study(tmp_path).trials) == 9
    assert len(events_of(tmp_path, "measured full precision")) == 2


@pytest.mark.parametrize("outcome", ["works", "error"])
def test_what_was_measured_is_not_measured_again(
    outcome: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study_spec(trainer__full_precision=outcome, search__rounds=1)
    with monkeypatch.context() as patch:
        evaluations_of(patch, stop_at=3)
        with pytest.raises(KeyboardInterrupt):
            run_spec(spec, tmp_path)
    run_spec(spec, tmp_path)
    assert len(events_of(tmp_path, "measuring full precision")) == 1
    expected = read_study(finished).rounds[0].full_precision if outcome == "works" else None
    assert read_study(tmp_path).rounds[0].full_precision == expected


@pytest.mark.parametrize(
    ("outcome", "limits", "reason"),
    [
        ("error", {}, "EvaluationError: the fake trainer was asked to fail"),
        ("nan", {}, "not finite: loss nan"),
        ("late", {"timeout_seconds": 3600}, "took longer than failures.timeout_seconds: 3600"),
    ],
)
def test_a_failure_is_logged_and_the_study_continues(
    outcome: str,
    limits: dict[str, Any],
    reason: str,
    uninterrupted: pd.DataFrame,
    tmp_path: Path,
) -> None:
    changes = {"trainer__full_precision": outcome, "failures": limits}
    spec = study_spec(**SMALL, trainer__faults=FAULTS, search__rounds=1, **changes)
    run_spec(spec, tmp_path)
    assert read_study(tmp_path).rounds[0].full_precision is None
    (line,) = events_of(tmp_path, "full precision failed")
    assert line["reason"].startswith(reason)
    assert_frame_equal(results(tmp_path), uninterrupted.query("round == 1"))


def test_a_trainer_that_cannot_measure_it_leaves_it_out(tmp_path: Path) -> None:
    run_spec(study_spec(**SMALL, trainer__name="whole", search__rounds=1), tmp_path)
    assert read_study(tmp_path).rounds[0].full_precision is None
    assert not events_of(tmp_path, "measuring full precision")


def test_once_time_is_up_it_is_left_to_a_later_session(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    trainer = load_plugin("trainers", "fake").__new__(load_plugin("trainers", "fake"))
    study: Any = SimpleNamespace(directory=tmp_path, components=SimpleNamespace(trainer=trainer))
    assert full_precision(study, 1, is_unchanged=False, should_stop=lambda: True) is None
    assert not list((tmp_path / "state").iterdir())
