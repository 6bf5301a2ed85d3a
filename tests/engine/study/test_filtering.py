"""The end of a round: its estimated losses, its front and the next set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qsearch.plugins.components import build_components
from qsearch.search.pareto import segmented_front
from qsearch.spec.study_spec import load_spec
from qsearch.storage.study_record import read_study, row_configuration
from qsearch.study.run import run_spec
from qsearch.surrogate.surrogate import fit_surrogate
from tests.engine.fake_study import study_spec
from tests.engine.study.test_candidates import EXAMPLES, features_of

FAULTS = [{"kind": "nan", "layer": "block.0.key", "bits": 8}]


@pytest.fixture(scope="module")
def counted(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a study whose task counts its examples, and where some evaluations fail."""
    directory = tmp_path_factory.mktemp("counted") / "run"
    spec = study_spec(
        task__name="counting", trainer__faults=FAULTS, search__initial=16, search__segments=3
    )
    run_spec(spec, directory)
    return directory


def test_the_estimated_loss_is_what_the_surrogate_of_the_round_predicts(counted: Path) -> None:
    space = build_components(load_spec(counted / "study.yaml")).space
    trials = read_study(counted).trials
    for round in (1, 2):
        rows = trials[(trials["round"] == round) & (trials["status"] == "completed")]
        index = np.array([space.encode(row_configuration(row)) for _, row in rows.iterrows()])
        features = features_of(counted, round)
        surrogate = fit_surrogate(features, index, rows["loss"].to_numpy(), EXAMPLES)
        mean, std = surrogate.predict(index)
        assert rows["estimated_loss"].to_numpy() == pytest.approx(mean.numpy(), abs=1e-9)
        assert rows["estimated_loss_std"].to_numpy() == pytest.approx(std, abs=1e-9)
        assert (rows["estimated_loss"] - rows["loss"]).abs().min() > 0
        assert (rows["estimated_loss_std"] > 0).all()


def test_there_is_no_estimated_loss_of_failures_and_without_a_number_of_examples(
    counted: Path, finished: Path
) -> None:
    failed = read_study(counted).trials.query("status == 'failed'")
    assert len(failed)
    for rows in (failed, read_study(finished).trials):
        assert rows[["estimated_loss", "estimated_loss_std"]].isna().all(axis=None)


def test_the_front_and_the_next_set_go_by_the_estimated_loss(counted: Path) -> None:
    record = read_study(counted)
    edges = np.array(record.segment_edges)
    observed_too = []
    for round in (1, 2):
        rows = record.trials[record.trials["round"] == round].query("status == 'completed'")
        expected = segmented_front(rows[["estimated_loss", "average_bits"]].to_numpy(), edges)
        assert (expected == rows["on_front"]).all()
        observed = segmented_front(rows[["loss", "average_bits"]].to_numpy(), edges)
        observed_too.append((expected == observed).all())
        if round == 1:
            assert record.rounds[1].training_set == tuple(rows.loc[expected, "trial"])
    assert not all(observed_too)  # Or this study could not tell one from the other.
