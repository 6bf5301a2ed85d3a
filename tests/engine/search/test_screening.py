"""Which candidates deserve a whole evaluation, judged by a part of the examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from scipy import stats

from qsearch._arrays import Floats, Integers
from qsearch.search.candidate_pool import Evaluated
from qsearch.search.layer_scores import weighted_scores
from qsearch.search.screening import PartLosses, beliefs, promoted
from qsearch.surrogate.error_correlation import error_correlation
from qsearch.surrogate.features import score_features
from qsearch.surrogate.surrogate import Surrogate, fit_surrogate
from tests.engine.support import errors_of, make_space

SPACE = make_space(2)
GROUPS = np.arange(len(SPACE.groups))
ERRORS = errors_of(SPACE)
BITS = (2.25, 7.25)
SENSITIVITY = np.random.default_rng(0).permutation(2.0 ** -np.arange(len(GROUPS)))
# What was measured is far off, so that there is much to learn.
MEASURED = SENSITIVITY * np.random.default_rng(1).lognormal(0, 1.5, len(GROUPS))
FEATURES = score_features(
    SPACE,
    weighted_scores(SPACE, ERRORS, MEASURED),
    error_correlation(NormalFloat(NormalFloat.Options())),
)


def loss_of(index: Integers) -> Floats:
    return np.asarray(0.3 + ERRORS[GROUPS, index] @ SENSITIVITY)


def sampled(count: int, seed: int) -> Integers:
    return SPACE.sample(count, BITS, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def evaluated() -> Evaluated:
    index = sampled(20, 1)
    return Evaluated(index, loss_of(index), index[:0])


@pytest.fixture(scope="module")
def surrogate(evaluated: Evaluated) -> Surrogate:
    return fit_surrogate(FEATURES, evaluated.index, evaluated.loss, 10**6)


def part_of(index: Integers, offset: float = 0.0, examples: int = 10**5) -> PartLosses:
    return PartLosses(index, loss_of(index) + offset, examples, 0.1)


def test_a_part_tells_what_the_surrogate_does_not_know(surrogate: Surrogate) -> None:
    index = sampled(60, 2)
    before = surrogate.predict(index)[0].numpy()
    after, std = beliefs(surrogate, part_of(index))
    ranks = [stats.spearmanr(mean, loss_of(index)).statistic for mean in (before, after.numpy())]
    assert ranks[1] > ranks[0]
    assert (std < surrogate.predict(index)[1]).all()


def test_what_a_part_has_in_common_does_not_matter(surrogate: Surrogate) -> None:
    index = sampled(30, 2)
    high, low = (beliefs(surrogate, part_of(index, offset))[0] for offset in (1.0, 0.0))
    spread = float(low.std())
    assert float((high - low).std()) < 0.02 * spread
    assert float((high - low).abs().max()) < 0.2


def multiplied(index: Integers) -> Floats:
    """Losses whose logarithm errors add to, up to several times the least."""
    return np.exp(8 * loss_of(index) / loss_of(sampled(60, 1)).max())


@pytest.mark.parametrize("losses", [loss_of, multiplied])
def test_beliefs_are_those_of_gaussian_conditioning(losses: Callable[[Integers], Floats]) -> None:
    known, part = sampled(60, 1), part_of(sampled(5, 3))
    surrogate = fit_surrogate(FEATURES, known, losses(known), 10**6)
    outcome, whole = surrogate.outcome, surrogate.on_examples
    assert (outcome.floor is None) == (losses is loss_of)
    with torch.no_grad():
        posterior = whole.model.posterior(torch.from_numpy(part.index).double()).mvn
    together = posterior.covariance_matrix.numpy() * outcome.scale**2
    if outcome.floor is not None:  # Log-normal moments.
        height = whole.predict(part.index)[0].numpy() - outcome.floor
        together = np.outer(height, height) * np.expm1(together)
    unit = surrogate.sampling_noise(part.index, 1).numpy()
    more_sampling_noise = unit * (1 / part.examples - part.share / part.examples)
    observed = together + more_sampling_noise + 100 * outcome.unit**2
    observed += np.diag(surrogate.noise(part.index).numpy() ** 2) / part.share
    gain = surrogate.covariance(part.index, whole).numpy() @ np.linalg.inv(observed)
    found_mean, found_std = beliefs(surrogate, part)
    mean, std = (values.numpy() for values in surrogate.predict(part.index))
    seen = whole.predict(part.index)[0].numpy()
    assert found_mean.numpy() == pytest.approx(mean + gain @ (part.loss - seen), rel=1e-5)
    explained = np.einsum("ab,bc,ac->a", gain, observed, gain)
    assert found_std.numpy() == pytest.approx(np.sqrt(std**2 - explained), rel=1e-3)


@pytest.mark.parametrize("losses", [loss_of, multiplied])
def test_noise_is_in_proportion_where_errors_multiply(losses: Callable[[Integers], Floats]) -> None:
    known, index = sampled(60, 1), sampled(30, 2)
    surrogate = fit_surrogate(FEATURES, known, losses(known), 10**6)
    noise, mean = surrogate.noise(index).numpy(), surrogate.predict(index)[0].numpy()
    if surrogate.outcome.floor is None:
        assert np.ptp(noise) == 0
    else:
        height = mean - surrogate.outcome.floor
        assert noise / noise[0] == pytest.approx(height / height[0])


def test_a_part_of_what_was_seen_whole_says_nothing_new() -> None:
    """With next to no noise, a whole loss holds all that its part's sampling noise could tell."""
    index = sampled(30, 1)
    generator = np.random.default_rng(5)
    loss = loss_of(index)
    fitted = fit_surrogate(FEATURES, index, loss, 200)
    seen = index[:1]
    part = PartLosses(np.concatenate([seen, sampled(3, 8)]), np.zeros(4) + loss.mean(), 50, 0.25)
    part.loss[:] = fitted.on_examples.predict(part.index)[0].numpy()
    part.loss[0] += 3 * float(generator.uniform(1, 2)) * float(fitted.noise(seen)[0])
    before = fitted.predict(seen)
    mean, std = beliefs(fitted, part)
    assert abs(float(mean[0] - before[0])) < 0.5 * float(before[1])
    assert float(std[0]) > 0.7 * float(before[1])


def test_a_part_of_few_examples_counts_for_little(surrogate: Surrogate) -> None:
    index = sampled(30, 2)
    before = surrogate.predict(index)[0]
    moved = [
        float((beliefs(surrogate, part_of(index, examples=n))[0] - before).abs().mean())
        for n in (1, 10**5)
    ]
    assert moved[0] < 0.2 * moved[1]


def test_promoted_candidates_gain_more_than_those_of_the_surrogate_alone(
    surrogate: Surrogate, evaluated: Evaluated
) -> None:
    gains = []
    for seed in range(5):
        index = sampled(40, 10 + seed)
        truth, bits = loss_of(index), SPACE.average_bits(index)
        chosen = promoted(surrogate, SPACE, evaluated, part_of(index), BITS, 8)
        assert len(set(chosen)) == 8
        # Losses below what is usual at their bits.
        trend = np.poly1d(np.polyfit(bits, np.log(truth - 0.29), 2))
        better = np.log(truth - 0.29) - trend(bits)
        gains.append(better[chosen].mean() - better.mean())
    assert np.mean(gains) < 0
    assert sum(gain < 0 for gain in gains) >= 4


def test_promoted_candidates_spread_over_average_bits(
    surrogate: Surrogate, evaluated: Evaluated
) -> None:
    index = np.repeat(sampled(1, 4), 10, axis=0)
    index[:, 0] = np.arange(10)  # Much alike, and one that is not.
    other = sampled(1, 5)
    everything = np.concatenate([index, other])
    chosen = promoted(surrogate, SPACE, evaluated, part_of(everything), BITS, 6)
    assert len(chosen) == len(set(chosen)) == 6


def test_failed_candidates_are_not_promoted(surrogate: Surrogate, evaluated: Evaluated) -> None:
    part = part_of(sampled(4, 6))
    part.loss[[0, 2]] = np.inf, np.nan
    assert sorted(promoted(surrogate, SPACE, evaluated, part, BITS, 4)) == [1, 3]
    part.loss[:] = np.inf
    assert promoted(surrogate, SPACE, evaluated, part, BITS, 4) == []
