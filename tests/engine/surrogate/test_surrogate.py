"""The Gaussian process for the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from botorch.exceptions.errors import ModelFittingError
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from scipy import stats

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.search.layer_scores import weighted_scores
from qsearch.space.sampling import sample_configurations
from qsearch.surrogate import surrogate
from qsearch.surrogate.error_correlation import error_correlation
from qsearch.surrogate.features import score_features
from qsearch.surrogate.kernels import ProxyMean
from qsearch.surrogate.surrogate import Surrogate, fit_surrogate
from tests.engine.fake_study import errors_of, make_space

SPACE = make_space(2)
GROUPS = np.arange(len(SPACE.groups))
ERRORS = errors_of(SPACE)
# Few layers matter much; what was measured of them is off by a factor of about two.
SENSITIVITY = np.random.default_rng(0).permutation(2.0 ** -np.arange(len(GROUPS)))
MEASURED = SENSITIVITY * np.random.default_rng(1).lognormal(0, 0.7, len(GROUPS))
SCORES = weighted_scores(SPACE, ERRORS, MEASURED)
CORRELATION = error_correlation(NormalFloat(NormalFloat.Options()))
FEATURES = score_features(SPACE, SCORES, CORRELATION)


def losses_of(index: Integers, noise: float, seed: int = 0) -> Floats:
    """An additive loss: error × sensitivity, plus noise."""
    generator = np.random.default_rng(seed)
    drawn = noise * generator.standard_normal(len(index))
    return np.asarray(0.3 + ERRORS[GROUPS, index] @ SENSITIVITY + drawn)


def sampled(count: int, seed: int) -> Integers:
    return sample_configurations(SPACE, count, (2.25, 7.25), np.random.default_rng(seed))


def explained(truth: Floats, predicted: Floats) -> float:
    """Held-out R²."""
    return float(1 - ((truth - predicted) ** 2).mean() / truth.var())


Fit = tuple[Surrogate, Integers, Floats]
"""A surrogate, and the configurations and losses that it was fitted to."""


@pytest.fixture(scope="module")
def fitted() -> Fit:
    index = sampled(40, 1)
    loss = losses_of(index, 0.01)
    return fit_surrogate(FEATURES, index, loss), index, loss


def test_predicts_an_additive_loss_that_it_has_not_seen_better_than_the_proxy(fitted: Fit) -> None:
    held_out = sampled(200, 2)
    truth = losses_of(held_out, 0.0)
    mean = fitted[0].predict(held_out)[0].numpy()
    assert stats.spearmanr(mean, truth).statistic > 0.9
    proxy = SCORES[GROUPS, held_out].sum(axis=1)
    line = stats.linregress(proxy, truth)
    by_proxy = explained(truth, line.intercept + line.slope * proxy)
    assert explained(truth, mean) > max(0.8, (1 + by_proxy) / 2)


def test_predictions_are_those_of_the_botorch_model(
    fitted: Fit, noisy: tuple[Surrogate, Surrogate]
) -> None:
    plain, counted, index, pending = fitted[0], noisy[0], sampled(30, 12), sampled(3, 13)
    inputs = torch.from_numpy(pending).double()
    with torch.no_grad():
        means = plain.model(inputs).mean[:, None]
        conditioned = plain.model.condition_on_observations(inputs, means)
    for subject, model in (
        (plain, plain.model),
        (plain.on_examples, plain.model),  # Without sampling noise, both predictions are one.
        (plain.fantasise(pending), conditioned),
        (counted.on_examples, counted.model),
    ):
        with torch.no_grad():
            posterior = model.posterior(torch.from_numpy(index).double())
        mean, std = subject.predict(index)
        expected = subject.outcome.moments(posterior.mean[:, 0], posterior.variance[:, 0])
        torch.testing.assert_close(mean, expected[0], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(std, expected[1], rtol=1e-4, atol=1e-6)


def test_the_mean_table_adds_up_to_the_posterior_mean(fitted: Fit) -> None:
    index = sampled(10, 19)
    added = fitted[0].mean_table[GROUPS, index].sum(axis=1)
    mean = fitted[0].posterior.predict(torch.from_numpy(index))[0].numpy()
    assert added - added[0] == pytest.approx(mean - mean[0], abs=1e-9)


def test_what_is_learnt_of_a_choice_holds_for_choices_with_like_errors() -> None:
    """A loss that depends on which way errors point, as a gradient would make it."""
    generator = np.random.default_rng(3)
    factor = np.linalg.cholesky(CORRELATION + 1e-9 * np.eye(len(CORRELATION)))
    effect = np.sqrt(SCORES) * (generator.standard_normal(SCORES.shape) @ factor.T)

    def loss(index: Integers) -> Floats:
        return np.asarray(SCORES[GROUPS, index].sum(1) + effect[GROUPS, index].sum(1))

    index, held_out = sampled(150, 4), sampled(300, 5)
    explained_by = {}
    for name, correlation in (("alike", CORRELATION), ("unrelated", None)):
        surrogate = fit_surrogate(score_features(SPACE, SCORES, correlation), index, loss(index))
        mean = surrogate.predict(held_out)[0].numpy()
        explained_by[name] = explained(loss(held_out), mean)
    assert explained_by["alike"] > explained_by["unrelated"] + 0.1


# Sampling noise: how well errors happen to suit the examples at hand

EXAMPLES = 64
TRUE_SCORES = 0.02 * SCORES / SCORES.mean()
"""A proxy in nats; here it is exact, so that sampling noise is all that there is to learn."""
TRUE_FEATURES = score_features(SPACE, TRUE_SCORES, CORRELATION)


def observed(index: Integers, seed: int) -> Floats:
    """Losses on examples whose gradients have the Fisher information: E⟨γ, D⟩² = 2 z."""
    generator = np.random.default_rng(seed)
    factor = np.linalg.cholesky(CORRELATION + 1e-9 * np.eye(len(CORRELATION)))
    effect = np.sqrt(2 * TRUE_SCORES / EXAMPLES)
    effect = effect * (generator.standard_normal(effect.shape) @ factor.T)
    return np.asarray(0.3 + (TRUE_SCORES + effect)[GROUPS, index].sum(axis=1))


@pytest.fixture(scope="module")
def noisy() -> tuple[Surrogate, Surrogate]:
    """Sampling noise modelled separately, and not."""
    index = sampled(60, 31)
    loss = observed(index, 32)
    counted = fit_surrogate(TRUE_FEATURES, index, loss, EXAMPLES)
    return counted, fit_surrogate(TRUE_FEATURES, index, loss)


def test_sampling_noise_is_not_predicted(noisy: tuple[Surrogate, Surrogate]) -> None:
    held_out = sampled(300, 33)
    truth = 0.3 + TRUE_SCORES[GROUPS, held_out].sum(axis=1)
    predicted = (subject.predict(held_out)[0].numpy() for subject in noisy)
    counted, not_counted = (float(np.sqrt(((mean - truth) ** 2).mean())) for mean in predicted)
    assert counted < 0.7 * not_counted


def test_intervals_hold_the_task_loss_where_sampling_noise_is_counted() -> None:
    held_out = sampled(200, 34)
    truth = 0.3 + TRUE_SCORES[GROUPS, held_out].sum(axis=1)
    inside = []
    for seed in range(40, 45):
        index = sampled(40, seed)
        loss = observed(index, seed)
        fitted = fit_surrogate(TRUE_FEATURES, index, loss, EXAMPLES)
        mean, std = (values.numpy() for values in fitted.predict(held_out))
        inside.append((np.abs(truth - mean) < stats.norm.ppf(0.95) * std).mean())
    # Under 0.9: the mean's constant and slope are fitted, their own uncertainty is left out.
    assert 0.75 < np.mean(inside) < 0.97


# Scale: losses as they are, or their logarithm


def multiplied(index: Integers, noise: float, seed: int = 0) -> Floats:
    """A loss that errors multiply, with an error in proportion."""
    unit = losses_of(sampled(60, 1), 0.0).std()
    drawn = noise * np.random.default_rng(seed).standard_normal(len(index))
    return np.asarray(1 + np.exp(3 * (losses_of(index, 0.0) - 0.3) / unit - 6 + drawn))


def test_losses_that_errors_multiply_are_modelled_by_their_logarithm() -> None:
    index, held_out = sampled(60, 1), sampled(200, 2)
    fitted = fit_surrogate(FEATURES, index, multiplied(index, 0.1))
    assert fitted.outcome.floor is not None
    assert fit_surrogate(FEATURES, index, losses_of(index, 0.01)).outcome.floor is None
    truth = multiplied(held_out, 0.0)
    assert stats.spearmanr(fitted.predict(held_out)[0].numpy(), truth).statistic > 0.9


def test_intervals_hold_as_many_held_out_losses_as_they_say() -> None:
    held_out = sampled(200, 3)
    distances = []
    for seed in range(20, 23):
        index = sampled(40, seed)
        fitted = fit_surrogate(FEATURES, index, losses_of(index, 0.03, seed))
        mean, std = (values.numpy() for values in fitted.predict_observed(held_out))
        distances.append(np.abs(losses_of(held_out, 0.03, 100 + seed) - mean) / std)
    assert 0.4 < (np.array(distances) < stats.norm.ppf(0.75)).mean() < 0.65
    assert 0.85 < (np.array(distances) < stats.norm.ppf(0.95)).mean() < 0.97


def test_a_fit_that_fails_keeps_the_initial_hyperparameters(
    fitted: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(mll: Any) -> None:
        torch.nn.init.constant_(mll.model.mean_module.constant, 50.0)
        raise ModelFittingError("All attempts to fit the model have failed.")

    monkeypatch.setattr(surrogate, "fit_gpytorch_mll", fail)
    one, two = (fit_surrogate(FEATURES, fitted[1], fitted[2]) for _ in range(2))
    assert one.model.likelihood.noise.item() == pytest.approx(0.1)
    held_out = sampled(100, 2)
    assert torch.equal(one.predict(held_out)[0], two.predict(held_out)[0])
    truth = losses_of(held_out, 0.0)
    assert stats.spearmanr(one.predict(held_out)[0].numpy(), truth).statistic > 0.7


def test_a_fit_leaves_the_global_generator_alone(
    fitted: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(surrogate, "fit_gpytorch_mll", lambda _: drawn.append(torch.rand(())))
    before = torch.get_rng_state()
    for _ in range(2):
        fit_surrogate(FEATURES, fitted[1], fitted[2])
    assert drawn[0] == drawn[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_prior_mean_rises_with_the_proxy_alone(fitted: Fit) -> None:
    mean = fitted[0].model.mean_module
    assert isinstance(mean, ProxyMean)
    index = sampled(5, 14)
    line = stats.linregress(
        SCORES[GROUPS, index].sum(axis=1), mean(torch.from_numpy(index)).detach().numpy()
    )
    assert line.slope > 0
    assert line.rvalue == pytest.approx(1)


def test_prior_mean_never_falls_even_if_losses_do() -> None:
    index = sampled(30, 14)
    fitted = fit_surrogate(FEATURES, index, -losses_of(index, 0.0))
    assert float(fitted.model.mean_module.slope) >= 0


ODD = {
    "equal losses": (SCORES, np.full(12, 0.4)),
    "an outlier": (SCORES, np.array([1e6, *losses_of(sampled(11, 9), 0.0)])),
    "two losses": (SCORES, np.array([0.3, 0.4])),
    "a lossless quantizer": (np.zeros_like(SCORES), losses_of(sampled(8, 9), 0.01)),
    "one sensitive group": (SCORES * (GROUPS == 0)[:, None], losses_of(sampled(20, 9), 0.01)),
}


@pytest.mark.parametrize(("scores", "loss"), ODD.values(), ids=ODD.keys())
def test_odd_losses_and_scores_are_fitted(scores: Floats, loss: Floats) -> None:
    features = score_features(SPACE, scores)
    mean, std = fit_surrogate(features, sampled(len(loss), 9), loss).predict(sampled(5, 10))
    assert torch.isfinite(mean).all()
    assert torch.isfinite(std).all()
    assert (std > 0).all()


@pytest.mark.parametrize(
    "loss", [np.array([0.1]), np.array([0.1, np.nan, 0.2]), np.array([0.1, np.inf, 0.2])]
)
def test_too_few_or_endless_losses_are_refused(loss: Floats) -> None:
    with pytest.raises(InputError, match="two or more losses, all finite"):
        fit_surrogate(FEATURES, sampled(len(loss), 0), loss)
