"""The Gaussian process for the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from botorch.exceptions.errors import ModelFittingError
from scipy import stats

from qsearch import surrogate
from qsearch.errors import InputError
from qsearch.space import Floats, Integers, Space
from qsearch.surrogate import Features, Surrogate, error_features, fit_surrogate
from tests.engine.support import errors_of, make_space

SPACE = make_space(2)
FEATURES = error_features(SPACE, errors_of(SPACE))


def losses_of(space: Space, index: Integers, noise: float, seed: int = 0) -> Floats:
    """An additive loss: error × sensitivity, where few layers matter much, plus noise."""
    generator = np.random.default_rng(seed)
    sensitivity = generator.permutation(2.0 ** -np.arange(len(space.groups)))
    errors = errors_of(space)[np.arange(len(space.groups)), index]
    return np.asarray(0.3 + errors @ sensitivity + noise * generator.standard_normal(len(index)))


def sampled(count: int, seed: int) -> Integers:
    return SPACE.sample(count, (2.25, 7.25), np.random.default_rng(seed))


@pytest.fixture(scope="module")
def fitted() -> tuple[Surrogate, Integers, Floats]:
    index = sampled(40, 1)
    loss = losses_of(SPACE, index, 0.01)
    return fit_surrogate(FEATURES, index, loss), index, loss


def test_predicts_an_additive_loss_that_it_has_not_seen(
    fitted: tuple[Surrogate, Integers, Floats],
) -> None:
    held_out = sampled(200, 2)
    truth = losses_of(SPACE, held_out, 0.0)
    mean, _ = fitted[0].predict(held_out)
    residual = ((mean.numpy() - truth) ** 2).mean()
    assert 1 - residual / truth.var() > 0.8
    assert stats.spearmanr(mean.numpy(), truth).statistic > 0.9


def test_half_of_held_out_losses_lie_in_the_middle_half_of_the_predictions(
    fitted: tuple[Surrogate, Integers, Floats],
) -> None:
    held_out = sampled(300, 3)
    mean, deviation = fitted[0].predict(held_out)
    scores = np.abs((losses_of(SPACE, held_out, 0.0) - mean.numpy()) / deviation.numpy())
    assert 0.3 < (scores < stats.norm.ppf(0.75)).mean() < 0.85
    assert (scores < stats.norm.ppf(0.975)).mean() > 0.85


def test_refit_gives_the_same_predictions(fitted: tuple[Surrogate, Integers, Floats]) -> None:
    again = fit_surrogate(FEATURES, fitted[1], fitted[2])
    held_out = sampled(20, 4)
    for first, second in zip(fitted[0].predict(held_out), again.predict(held_out), strict=True):
        assert torch.equal(first, second)


def test_a_fit_that_fails_keeps_the_initial_hyperparameters(
    fitted: tuple[Surrogate, Integers, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(mll: Any) -> None:
        torch.nn.init.constant_(mll.model.mean_module.constant, 50.0)
        raise ModelFittingError("All attempts to fit the model have failed.")

    monkeypatch.setattr(surrogate, "fit_gpytorch_mll", fail)
    one, two = (fit_surrogate(FEATURES, fitted[1], fitted[2]) for _ in range(2))
    assert one.model.likelihood.noise.item() == pytest.approx(0.02)
    held_out = sampled(100, 2)
    assert torch.equal(one.predict(held_out)[0], two.predict(held_out)[0])
    truth = losses_of(SPACE, held_out, 0.0)
    assert stats.spearmanr(one.predict(held_out)[0].numpy(), truth).statistic > 0.7


def test_a_fit_leaves_the_global_generator_alone(
    fitted: tuple[Surrogate, Integers, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(surrogate, "fit_gpytorch_mll", lambda _: drawn.append(torch.rand(())))
    before = torch.get_rng_state()
    for _ in range(2):
        fit_surrogate(FEATURES, fitted[1], fitted[2])
    assert drawn[0] == drawn[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_predictions_scale_with_the_loss(fitted: tuple[Surrogate, Integers, Floats]) -> None:
    scaled = fit_surrogate(FEATURES, fitted[1], 100 * fitted[2] - 7)
    held_out = sampled(20, 4)
    mean, deviation = fitted[0].predict(held_out)
    other_mean, other_deviation = scaled.predict(held_out)
    torch.testing.assert_close(other_mean, 100 * mean - 7, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(other_deviation, 100 * deviation, rtol=1e-2, atol=1e-3)


def test_uncertainty_is_less_at_what_was_evaluated(
    fitted: tuple[Surrogate, Integers, Floats],
) -> None:
    surrogate, index, _ = fitted
    assert surrogate.predict(index)[1].mean() < surrogate.predict(sampled(50, 5))[1].mean()


def test_fantasies_keep_means_and_shrink_uncertainty(
    fitted: tuple[Surrogate, Integers, Floats],
) -> None:
    surrogate = fitted[0]
    pending, others = sampled(3, 6), sampled(50, 7)
    believed = surrogate.fantasise(pending)
    everything = np.concatenate([pending, others])
    mean, deviation = surrogate.predict(everything)
    new_mean, new_deviation = believed.predict(everything)
    torch.testing.assert_close(new_mean, mean, rtol=1e-4, atol=1e-4)
    assert (new_deviation <= deviation * (1 + 1e-6)).all()
    assert (new_deviation[:3] < 0.8 * deviation[:3]).all()
    # The surrogate itself is not changed.
    assert torch.equal(surrogate.predict(everything)[1], deviation)


def test_no_fantasies_change_nothing(fitted: tuple[Surrogate, Integers, Floats]) -> None:
    assert fitted[0].fantasise(sampled(0, 0)) is fitted[0]


def test_chunked_prediction_equals_prediction_at_once(
    fitted: tuple[Surrogate, Integers, Floats],
) -> None:
    index = sampled(101, 8)
    whole, chunked = fitted[0].predict(index, chunk=1000), fitted[0].predict(index, chunk=17)
    for one, other in zip(whole, chunked, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_predicting_nothing_gives_empty_tensors(
    fitted: tuple[Surrogate, Integers, Floats],
) -> None:
    mean, deviation = fitted[0].predict(sampled(0, 0))
    assert mean.shape == deviation.shape == (0,)


def test_prior_mean_never_falls_with_error(fitted: tuple[Surrogate, Integers, Floats]) -> None:
    inputs = torch.zeros(2, 2 * len(SPACE.groups) + 1, dtype=torch.float64)
    inputs[1, -1] = 1.0
    worse = fitted[0].model.mean_module(inputs).diff()
    assert float(worse) >= 0


@pytest.mark.parametrize("losses", ["equal", "outlier", "two"])
def test_odd_losses_are_fitted(losses: str) -> None:
    index = sampled(2 if losses == "two" else 12, 9)
    loss = losses_of(SPACE, index, 0.0)
    if losses == "equal":
        loss = np.full(len(index), 0.4)
    if losses == "outlier":
        loss[0] = 1e6
    mean, deviation = fit_surrogate(FEATURES, index, loss).predict(sampled(5, 10))
    assert torch.isfinite(mean).all()
    assert torch.isfinite(deviation).all()
    assert (deviation > 0).all()


def test_a_lossless_quantizer_is_fitted() -> None:
    features = error_features(SPACE, np.zeros((len(SPACE.layers), SPACE.choices.size)))
    index = sampled(8, 11)
    surrogate = fit_surrogate(features, index, losses_of(SPACE, index, 0.01))
    assert torch.isfinite(surrogate.predict(index)[0]).all()


@pytest.mark.parametrize(
    "loss", [np.array([0.1]), np.array([0.1, np.nan, 0.2]), np.array([0.1, np.inf, 0.2])]
)
def test_too_few_or_endless_losses_are_refused(loss: Floats) -> None:
    with pytest.raises(InputError, match="two or more finite losses"):
        fit_surrogate(FEATURES, sampled(len(loss), 0), loss)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_impossible_errors_are_refused(value: float) -> None:
    errors = errors_of(SPACE)
    errors[0, 0] = value
    with pytest.raises(InputError, match="not negative"):
        error_features(SPACE, errors)
    with pytest.raises(InputError, match="expected"):
        error_features(SPACE, errors[:, 1:])


def test_features_of_a_tied_group_are_its_layers_parameter_weighted_mean() -> None:
    space = make_space(1, fused=True)
    errors = errors_of(space)
    features = error_features(space, errors)
    gate_up = space.groups[2]
    assert [space.layers[m].role for m in gate_up.members] == ["gate", "up"]
    expected = errors[list(gate_up.members)].mean(axis=0)
    ratio = features.linear[2].numpy() / expected
    assert ratio == pytest.approx(ratio[0])
    assert features(np.zeros((3, 4), dtype=np.int64)).shape == (3, 9)
    assert isinstance(features, Features)
