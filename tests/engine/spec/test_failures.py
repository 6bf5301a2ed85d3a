"""What a study makes of evaluations that fail: recorded, tried again, tolerated up to a rate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.errors import InputError, QsearchError
from qsearch.spec.failures import FailuresSpec
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.study_record import read_study
from qsearch.study.run import run_spec
from tests.engine.fake_study import FAULTS, SMALL, Stop, events_of, results, stopping_at, study_spec

SOME = {"layer": "block.0.key", "bits": 8}
REASON = "EvaluationError: the fake trainer was asked to fail"
"""Of a fault; execution/test_executors.py has all kinds of failure."""


def failing(*faults: dict[str, Any], **changes: Any) -> StudySpec:
    return study_spec(trainer__blocks=1, trainer__faults=list(faults), **changes)


def failed_of(directory: Path) -> pd.DataFrame:
    trials = read_study(directory).trials
    return trials[trials["status"] == "failed"]


def test_a_failure_is_recorded_with_its_reason_and_the_study_goes_on(faulty: Path) -> None:
    record = read_study(faulty)
    assert len(record.rounds) == 2
    for _, row in record.trials.iterrows():
        knobs = json.loads(row["configuration"])
        is_second = row["round"] == 2 and knobs["block.0.query"]["bits"] == 4
        expected = "not finite: " if knobs["block.0.key"]["bits"] == 8 else REASON * is_second
        assert row["reason"].startswith(expected)
        assert (row["status"] == "failed") == np.isnan(row["loss"]) == bool(expected)


def test_a_failure_that_does_not_come_again_leaves_no_trace_in_the_results(
    finished: Path, tmp_path: Path
) -> None:
    once = {"kind": "error", "once": str(tmp_path / "once")}
    spec = study_spec(trainer__faults=[once], failures__retries=1, search__rounds=1)
    run_spec(spec, tmp_path / "run")
    first = results(finished).query("round == 1")
    assert_frame_equal(results(tmp_path / "run"), first, check_exact=True)
    (retry,) = events_of(tmp_path / "run", "retry")
    assert retry["trial"] == 0
    assert retry["attempt"] == 1
    assert retry["reason"].startswith(REASON)


def test_the_surrogate_learns_nothing_from_failures(faulty: Path, tmp_path: Path) -> None:
    """Whatever a failed trial is said to have, estimated losses of the others stay the same."""
    kinds = {"nan": "error", "error": "nan"}
    faults = [fault | {"kind": kinds[str(fault["kind"])]} for fault in FAULTS]
    swapped = run_spec(study_spec(**SMALL, trainer__faults=faults), tmp_path / "run").trials
    columns = ["trial", "round", "configuration", "loss", "estimated_loss", "status"]
    assert_frame_equal(swapped[columns], read_study(faulty).trials[columns], check_exact=True)


def test_a_study_stops_once_more_have_failed_than_its_rate(tmp_path: Path) -> None:
    spec = failing({"kind": "error"}, failures__rate=0.25)
    with pytest.raises(QsearchError) as caught:
        run_spec(spec, tmp_path / "run")
    assert not isinstance(caught.value, InputError)
    message = str(caught.value)
    assert "round 1: 3 of 8 evaluations failed, more than failures.rate 0.25 allows" in message
    assert "the fake trainer was asked to fail" in message
    assert "the same command tries these again" in message
    assert len(failed_of(tmp_path / "run")) == 3, "nothing more is tried once the rate is passed"


def test_a_rate_allows_its_share_whatever_its_fraction_in_binary() -> None:
    for percent in range(101):
        limits = FailuresSpec(rate=percent / 100)
        assert limits.tolerates(percent, 100)
        assert not limits.tolerates(percent + 1, 100)


def test_a_stopped_study_tries_its_failures_again(finished: Path, tmp_path: Path) -> None:
    """The cause, a file that is missing here, is mended between the two runs."""
    faults = [{"kind": "error", "once": str(tmp_path / name / "once")} for name in ("a", "b")]
    spec = study_spec(trainer__faults=faults, failures__rate=0.1, search__rounds=1)
    with pytest.raises(QsearchError, match=r"failures\.rate 0\.1"):
        run_spec(spec, tmp_path / "run")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "once").touch()
    run_spec(spec, tmp_path / "run")
    assert events_of(tmp_path / "run", "retrying")
    first = results(finished).query("round == 1")
    assert_frame_equal(results(tmp_path / "run"), first, check_exact=True)


def test_a_failure_before_any_success_stays_one_if_the_study_is_killed(tmp_path: Path) -> None:
    def of(name: str) -> StudySpec:
        once = {"kind": "error", "once": str(tmp_path / name)}
        return study_spec(**SMALL, trainer__faults=[once], search__rounds=1)

    run_spec(of("a"), tmp_path / "uninterrupted")
    with pytest.raises(Stop):
        run_spec(of("b"), tmp_path / "killed", observer=stopping_at("failed"))
    run_spec(of("b"), tmp_path / "killed")
    assert_frame_equal(
        results(tmp_path / "killed"), results(tmp_path / "uninterrupted"), check_exact=True
    )
    assert len(failed_of(tmp_path / "killed")) == 1


def test_the_greatest_loss_that_counts_does_the_surrogate_no_harm(tmp_path: Path) -> None:
    record = run_spec(failing({"kind": "huge", **SOME}), tmp_path / "run")
    assert len(record.rounds) == 2
    assert (record.trials["loss"] > 1e99).any()


def test_a_stopped_study_may_be_let_tolerate_more(tmp_path: Path) -> None:
    strict = failing({"kind": "nan", **SOME}, failures__rate=0.0, search__rounds=1)
    with pytest.raises(QsearchError):
        run_spec(strict, tmp_path / "run")
    lenient = failing({"kind": "nan", **SOME}, failures__rate=1.0, search__rounds=1)
    assert len(run_spec(lenient, tmp_path / "run").rounds) == 1
