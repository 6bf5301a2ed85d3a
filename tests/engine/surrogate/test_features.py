"""What the surrogate knows of choices: scores, and how errors correlate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch._arrays import Floats
from qsearch.errors import InputError
from qsearch.search.layer_scores import weighted_scores
from qsearch.space.sampling import sample_configurations
from qsearch.surrogate.error_correlation import error_correlation
from qsearch.surrogate.features import score_features
from tests.engine.fake_study import errors_of, make_space

SPACE = make_space(2)
GROUPS = np.arange(len(SPACE.groups))
SENSITIVITY = np.random.default_rng(0).gamma(0.5, size=len(GROUPS))
SCORES = weighted_scores(SPACE, errors_of(SPACE), SENSITIVITY)
CORRELATION = error_correlation(NormalFloat(NormalFloat.Options()))
FEATURES = score_features(SPACE, SCORES, CORRELATION)


def test_the_proxy_is_the_sum_of_scores_with_mean_one() -> None:
    drawn = np.random.default_rng(1).integers(SPACE.choices.size, size=(20_000, len(GROUPS)))
    total = FEATURES.total(torch.from_numpy(drawn)).numpy()
    assert total.mean() == pytest.approx(1, rel=0.05)
    expected = SCORES[GROUPS, drawn].sum(axis=1)
    assert total == pytest.approx(expected / SCORES.mean(axis=1).sum())


def test_error_covariance_is_the_inner_product_of_errors() -> None:
    """With errors E of unit length times √φ, it is Σ_g ⟨E_g, E'_g⟩."""
    index = sample_configurations(SPACE, 6, (2.25, 7.25), np.random.default_rng(15))
    factor = np.linalg.cholesky(CORRELATION + 1e-12 * np.eye(len(CORRELATION)))
    root = np.sqrt(SCORES / SCORES.mean(axis=1).sum())
    errors = root[GROUPS, index][..., None] * factor[index]
    expected = np.einsum("agd,bgd->ab", errors, errors)
    inputs = torch.from_numpy(index)
    assert FEATURES.error_kernel(inputs, inputs).numpy() == pytest.approx(expected, abs=1e-6)


def test_proxy_covariance_is_that_of_misjudged_sensitivities() -> None:
    """Sensitivities off by independent factors: cov = v Σ_g φ_g φ'_g, of every common draw."""
    index = torch.from_numpy(
        sample_configurations(SPACE, 4, (2.25, 7.25), np.random.default_rng(16))
    )
    factors = np.random.default_rng(2).standard_normal((50_000, len(GROUPS)))
    effects = factors @ FEATURES.proxy.numpy()[GROUPS, index.numpy()].T
    expected = FEATURES.proxy_kernel(index, index).numpy()
    ratio = np.cov(effects.T) / expected
    assert ratio == pytest.approx(np.full((4, 4), ratio[0, 0]), rel=0.1)


@pytest.mark.parametrize("blocks", [1, 6])
@pytest.mark.parametrize("name", ["error_kernel", "proxy_kernel"])
def test_variance_does_not_grow_with_the_number_of_layers(blocks: int, name: str) -> None:
    """Priors of the kernels then hold for models of any size."""
    space = make_space(blocks)
    sensitivity = np.random.default_rng(2).gamma(0.5, size=len(space.layers))
    features = score_features(space, weighted_scores(space, errors_of(space), sensitivity))
    drawn = np.random.default_rng(3).integers(space.choices.size, size=(4000, len(space.groups)))
    variances = getattr(features, name).variances.numpy()
    total = variances[np.arange(len(space.groups)), drawn].sum(axis=1)
    assert total.mean() == pytest.approx(1, rel=0.1)


def test_without_a_correlation_only_equal_choices_covary() -> None:
    kernel = score_features(SPACE, SCORES).error_kernel
    one = sample_configurations(SPACE, 1, (2.25, 7.25), np.random.default_rng(1))
    other = (one + 1) % SPACE.choices.size
    other[0, 0] = one[0, 0]
    shared = SCORES[0, one[0, 0]] / SCORES.mean(axis=1).sum()
    covariance = kernel(torch.from_numpy(one), torch.from_numpy(other))
    assert covariance.item() == pytest.approx(shared)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_impossible_scores_are_refused(value: float) -> None:
    scores = SCORES.copy()
    scores[0, 0] = value
    with pytest.raises(InputError, match="scores must be finite and not negative"):
        score_features(SPACE, scores)


def test_scores_of_another_space_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(14, 431\), expected \(14, 432\)"):
        score_features(SPACE, SCORES[:, 1:])


@pytest.mark.parametrize(
    ("correlation", "said"),
    [
        (np.eye(3), r"shape \(3, 3\), expected \(432, 432\)"),
        (2 * np.eye(432), "with ones on its diagonal"),
        (np.full((432, 432), np.nan), "must be symmetric"),
        (np.eye(432) + 0.5 * np.eye(432, k=1), "must be symmetric"),
        (2 * np.eye(432) - np.ones((432, 432)), "positive semidefinite"),
    ],
)
def test_impossible_correlations_are_refused(correlation: Floats, said: str) -> None:
    with pytest.raises(InputError, match=said):
        score_features(SPACE, SCORES, correlation)
