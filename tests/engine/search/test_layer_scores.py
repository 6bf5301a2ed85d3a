"""Scores of single layers."""

from __future__ import annotations

import numpy as np
import pytest

from qsearch.errors import InputError
from qsearch.search.layer_scores import error_scores, weighted_scores
from tests.engine.fake_study import INTEGER, errors_of, make_space

SPACE = make_space(1, INTEGER)
LAYERS = len(SPACE.layers)


def test_scores_are_error_times_sensitivity_added_over_tied_layers() -> None:
    space = make_space(1, INTEGER, fused=True)
    errors, sensitivity = errors_of(space), np.arange(7.0)
    scores = weighted_scores(space, errors, sensitivity)
    assert scores.shape == (len(space.groups), 8)
    assert [space.groups[g].members for g in (0, 2)] == [(0, 1, 2), (4, 5)]
    assert scores[0] == pytest.approx(0 * errors[0] + 1 * errors[1] + 2 * errors[2])
    assert scores[2] == pytest.approx(4 * errors[4] + 5 * errors[5])


def test_without_sensitivity_each_weight_counts_the_same() -> None:
    errors = errors_of(SPACE)
    scores = error_scores(SPACE, errors)
    parameters = [layer.parameters for layer in SPACE.layers]
    assert scores.sum(axis=0) == pytest.approx(np.average(errors, axis=0, weights=parameters))
    assert scores[4] / errors[4] == pytest.approx(4 * scores[0] / errors[0])


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
@pytest.mark.parametrize("name", ["quantization error", "sensitivity"])
def test_impossible_measurements_are_refused(name: str, value: float) -> None:
    errors, sensitivity = errors_of(SPACE), np.ones(LAYERS)
    (errors[0] if name == "quantization error" else sensitivity)[1] = value
    with pytest.raises(InputError, match=f"{name} must be finite and not negative"):
        weighted_scores(SPACE, errors, sensitivity)


def test_measurements_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match=r"error has shape \(2, 8\), expected \(7, 8\)"):
        weighted_scores(SPACE, errors_of(SPACE)[:2], np.ones(LAYERS))
    with pytest.raises(InputError, match=r"sensitivity has shape \(2,\), expected \(7,\)"):
        weighted_scores(SPACE, errors_of(SPACE), np.ones(2))
