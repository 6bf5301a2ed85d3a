"""A round's candidates and what is predicted of them before they are evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from qsearch.plugins.components import build_components
from qsearch.search.layer_scores import weighted_scores
from qsearch.spec.study_spec import load_spec
from qsearch.storage.measurements import read_measurement
from qsearch.storage.paths import candidates_path
from qsearch.storage.round_state import CANDIDATES
from qsearch.storage.study_record import read_study, row_configuration
from qsearch.study.run import run_spec
from qsearch.surrogate.error_correlation import error_correlation
from qsearch.surrogate.features import Features, score_features
from qsearch.surrogate.surrogate import fit_surrogate
from tests.engine.fake_study import SMALL, evaluations_of, results, study_spec

COUNTED = study_spec(task__name="counting", search__candidates=4)
FIRST_ROUND = study_spec(task__name="counting", search__candidates=4, search__rounds=1)
EXAMPLES = 4
"""Validation examples of the fake task that counts them."""


@pytest.fixture(scope="module")
def counted(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a study whose task counts its examples."""
    directory = tmp_path_factory.mktemp("counted") / "run"
    run_spec(COUNTED, directory)
    return directory


def features_of(directory: Path, round: int) -> Features:
    """What the surrogate of a round starts from."""
    components = build_components(load_spec(directory / "study.yaml"))
    error = read_measurement(directory, "quantization_error")
    sensitivity = read_measurement(directory, f"sensitivity-{round}")
    assert error is not None
    assert sensitivity is not None
    scores = weighted_scores(components.space, error, sensitivity)
    return score_features(components.space, scores, error_correlation(components.quantizer))


def test_a_predicted_loss_is_what_the_surrogate_of_the_set_predicts_of_observed_losses(
    counted: Path,
) -> None:
    record = read_study(counted)
    space = build_components(load_spec(counted / "study.yaml")).space
    for entry in record.rounds:
        rows = record.trials[record.trials["round"] == entry.round]
        of_set = rows["trial"].isin(entry.training_set)
        index = np.array([space.encode(row_configuration(row)) for _, row in rows.iterrows()])
        losses = rows["loss"][of_set].to_numpy()
        features = features_of(counted, entry.round)
        surrogate = fit_surrogate(features, index[of_set], losses, EXAMPLES)
        mean, std = surrogate.predict_observed(index[~of_set])
        candidates = rows[~of_set]
        assert candidates["predicted_loss"].to_numpy() == pytest.approx(mean.numpy(), abs=1e-9)
        assert candidates["predicted_loss_std"].to_numpy() == pytest.approx(std.numpy(), abs=1e-9)


def test_only_candidates_of_the_very_round_have_a_predicted_loss(counted: Path) -> None:
    record = read_study(counted)
    for entry in record.rounds:
        rows = record.trials[record.trials["round"] == entry.round]
        candidates = CANDIDATES.read(candidates_path(counted, entry.round)).chosen
        assert len(candidates) == 4
        assert set(rows.loc[rows["predicted_loss"].notna(), "trial"]) == set(candidates)
        assert (rows["predicted_loss"].isna() == rows["predicted_loss_std"].isna()).all()


def test_random_candidates_have_a_predicted_loss_unless_they_fail(tmp_path: Path) -> None:
    fault = {"kind": "nan", "layer": "block.0.query", "bits": 8}
    changes = {"search__propose": "random", "search__candidates": 12, "search__rounds": 1}
    run_spec(study_spec(**SMALL | changes, trainer__faults=[fault]), tmp_path)
    candidates = read_study(tmp_path).trials.query("trial >= 5")
    assert set(candidates["status"]) == {"completed", "failed"}
    assert ((candidates["status"] == "completed") == candidates["predicted_loss"].notna()).all()


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_resumed_study_has_the_same_candidates_and_predicted_losses(
    is_deleted: bool, counted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = FIRST_ROUND.search.initial_count
    with monkeypatch.context() as patch:
        evaluations_of(patch, stop_at=initial + 3)  # Two candidates are evaluated.
        with pytest.raises(KeyboardInterrupt):
            run_spec(FIRST_ROUND, tmp_path)
    assert read_study(tmp_path).trials["predicted_loss"].notna().sum() == 2
    if is_deleted:
        candidates_path(tmp_path, 1).unlink()
    run_spec(FIRST_ROUND, tmp_path)
    assert_frame_equal(results(tmp_path), results(counted).query("round == 1"))


def test_a_lowered_limit_holds_for_candidates_that_were_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SMALL | {"search__candidates": 4}
    with monkeypatch.context() as patch:
        evaluations_of(patch, stop_at=6)
        with pytest.raises(KeyboardInterrupt):
            run_spec(study_spec(**options), tmp_path)
    run_spec(study_spec(**options, search__stop__evaluations=7), tmp_path)
    assert len(read_study(tmp_path).trials) == 7
