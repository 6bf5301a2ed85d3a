"""What limits the results of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qsearch.claims.claims import Claim
from qsearch.claims.comparison import Comparison
from qsearch.claims.health import health_warnings
from qsearch.claims.paired_difference import PairedDifference
from qsearch.plugins.evaluation import ExampleScores, MetricValue
from qsearch.storage.example_scores import FULL_PRECISION, trial_name, write_example_scores
from qsearch.storage.paths import examples_path
from qsearch.storage.study_record import StudyRecord, read_study

CONVERGED = tuple((0.5 + np.random.default_rng(0).normal(0, 0.05, 80)).tolist())
FALLING = tuple(np.linspace(1.0, 0.2, 80).tolist())


@pytest.fixture
def record(finished: Path) -> StudyRecord:
    """A study whose training has converged."""
    return with_last(read_study(finished), train_losses=CONVERGED)


def with_last(record: StudyRecord, **changes: object) -> StudyRecord:
    last = replace(record.rounds[-1], **changes)
    return replace(record, rounds=(*record.rounds[:-1], last))


def warnings(record: StudyRecord, directory: Path, claim: Claim | None = None) -> tuple[str, ...]:
    return health_warnings(record, Comparison(directory, record), claim)


def test_a_study_that_is_well_has_none(record: StudyRecord, tmp_path: Path) -> None:
    assert warnings(replace(record, chance_loss=0.69), tmp_path) == ()


def test_a_model_that_hardly_does_better_than_guessing(record: StudyRecord, tmp_path: Path) -> None:
    full = record.rounds[-1].full_precision
    assert full is not None
    for chance, expected in ((full.loss / 0.95, 1), (full.loss / 0.85, 0), (None, 0)):
        found = warnings(replace(record, chance_loss=chance), tmp_path)
        assert len(found) == expected
    assert "hardly learnt the task" in warnings(replace(record, chance_loss=full.loss), tmp_path)[0]


def test_training_that_has_not_converged(record: StudyRecord, tmp_path: Path) -> None:
    (found,) = warnings(with_last(record, train_losses=FALLING), tmp_path)
    assert found.startswith("training has not converged: in round 2 its loss fell from 0.49")
    # A later round that trains nothing is of the adapter before it.
    last = replace(record.rounds[-1], train_losses=())
    before = replace(record.rounds[0], train_losses=FALLING)
    (found,) = warnings(replace(record, rounds=(before, last)), tmp_path)
    assert "in round 1" in found


def test_examples_that_are_few_for_the_claim(record: StudyRecord, tmp_path: Path) -> None:
    row = record.latest.iloc[0]
    rough = Claim(row, PairedDifference(0.0, 0.05, -0.1, 0.1, 12), 1.0, 1)
    assert warnings(record, tmp_path, rough) == (
        "12 examples are few: a loss up to 10 % higher would not be noticed",
    )
    assert warnings(record, tmp_path, replace(rough, reference_loss=10.0)) == ()


@pytest.mark.parametrize(("gain", "expected"), [(0.2, True), (0.001, False)])
def test_full_precision_that_is_measurably_worse(
    record: StudyRecord, tmp_path: Path, gain: float, expected: bool
) -> None:
    losses = np.random.default_rng(1).normal(1.0, 0.1, 50)
    noise = np.random.default_rng(2).normal(0, 0.02, 50)
    least = record.latest.sort_values("loss").iloc[0]
    for name, values in (
        (trial_name(int(least["trial"])), losses - gain + noise),
        (FULL_PRECISION, losses),
    ):
        scores = ExampleScores(tuple(values.tolist()), (1.0,) * 50)
        write_example_scores(examples_path(tmp_path, record.rounds[-1].round, name), scores)
    found = warnings(record, tmp_path)
    assert any("is measurably better than full precision" in text for text in found) == expected


@pytest.mark.parametrize(("kl", "told"), [(0.317, True), (0.002, False), (None, False)])
def test_an_adapter_that_has_moved_the_model_from_the_original(
    record: StudyRecord, tmp_path: Path, kl: float | None, told: bool
) -> None:
    full = record.rounds[-1].full_precision
    assert full is not None
    metrics = dict(full.metrics) | ({} if kl is None else {"kl": MetricValue(kl)})
    found = warnings(with_last(record, full_precision=replace(full, metrics=metrics)), tmp_path)
    assert any("has a KL of 0.3170 nats to the model" in text for text in found) == told
