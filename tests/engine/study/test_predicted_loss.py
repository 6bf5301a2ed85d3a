"""What a round's search predicts of its candidates before they are evaluated, in whole studies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from qsearch.plugins.components import build_components
from qsearch.search.layer_scores import weighted_scores
from qsearch.spec.study_spec import StudySpec, load_spec
from qsearch.storage.measurements import read_measurement
from qsearch.storage.paths import candidates_path
from qsearch.storage.round_state import read_candidates
from qsearch.storage.study_record import read_study, row_configuration
from qsearch.study.run import run_study
from qsearch.surrogate.error_correlation import error_correlation
from qsearch.surrogate.features import score_features
from qsearch.surrogate.surrogate import fit_surrogate
from tests.engine.support import evaluations_of, results, study_spec

COUNTED = study_spec(task__name="counting", search__candidates=4)
EXAMPLES = 4
"""Validation examples of the fake task that counts them."""


@pytest.fixture(scope="module")
def counted(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a study whose task counts its examples."""
    directory = tmp_path_factory.mktemp("predicted") / "run"
    run_study(COUNTED, directory)
    return directory


def test_it_is_what_the_surrogate_of_the_set_predicts_of_observed_losses(counted: Path) -> None:
    components, record = build_components(load_spec(counted / "study.yaml")), read_study(counted)
    error = read_measurement(counted, "quantization_error")
    assert error is not None
    for entry in record.rounds:
        sensitivity = read_measurement(counted, f"sensitivity-{entry.round}")
        assert sensitivity is not None
        scores = weighted_scores(components.space, error, sensitivity)
        features = score_features(components.space, scores, error_correlation(components.quantizer))
        rows = record.trials[record.trials["round"] == entry.round]
        of_set = rows["trial"].isin(entry.training_set)
        index = np.array(
            [components.space.encode(row_configuration(row)) for _, row in rows.iterrows()]
        )
        losses = rows["loss"][of_set].to_numpy()
        surrogate = fit_surrogate(features, index[of_set], losses, EXAMPLES)
        mean, std = surrogate.predict_observed(index[~of_set])
        candidates = rows[~of_set]
        assert candidates["predicted_loss"].to_numpy() == pytest.approx(mean.numpy(), abs=1e-9)
        found = candidates["predicted_loss_std"].to_numpy()
        assert found == pytest.approx(std.numpy(), abs=1e-9)


def test_only_candidates_of_the_very_round_have_one(counted: Path) -> None:
    record = read_study(counted)
    for entry in record.rounds:
        rows = record.trials[record.trials["round"] == entry.round]
        candidates = read_candidates(candidates_path(counted, entry.round)).chosen
        assert len(candidates) == 4
        assert set(rows.loc[rows["predicted_loss"].notna(), "trial"]) == set(candidates)
        assert (rows["predicted_loss"].isna() == rows["predicted_loss_std"].isna()).all()


@pytest.mark.parametrize(
    "spec",
    [study_spec(), study_spec(search__propose="random")],
    ids=["where sampling noise is not told apart", "random candidates"],
)
def test_there_is_one_whatever_the_search(spec: StudySpec, tmp_path: Path) -> None:
    run_study(spec, tmp_path)
    trials = read_study(tmp_path).trials
    assert trials["predicted_loss"].notna().sum() == spec.search.rounds * spec.search.candidates


def test_failed_candidates_have_none(tmp_path: Path) -> None:
    fault = {"kind": "nan", "layer": "block.0.key", "bits": 3}
    run_study(study_spec(trainer__faults=[fault], search__candidates=6), tmp_path)
    failed = read_study(tmp_path).trials.query("status == 'failed' and method == 'search'")
    assert len(failed)
    assert failed["predicted_loss"].isna().all()


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_study_that_goes_on_has_the_same_ones(
    is_forgotten: bool, counted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = COUNTED.search.initial_count
    with monkeypatch.context() as patch:
        evaluations_of(patch, stop_at=initial + 3)  # Two candidates are evaluated.
        with pytest.raises(KeyboardInterrupt):
            run_study(COUNTED, tmp_path)
    assert read_study(tmp_path).trials["predicted_loss"].notna().sum() == 2
    if is_forgotten:
        candidates_path(tmp_path, 0).unlink()
    run_study(COUNTED, tmp_path)
    assert_frame_equal(results(tmp_path), results(counted))


@pytest.mark.parametrize("old", [{"chosen": [3, 4], "screened_out": [5]}, [3, 4]])
def test_candidates_of_earlier_versions_have_none(old: object, tmp_path: Path) -> None:
    path = tmp_path / "candidates-1.json"
    path.write_text(json.dumps(old))
    found = read_candidates(path)
    assert found.chosen == (3, 4)
    assert found.predicted == {}
