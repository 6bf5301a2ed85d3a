"""GPyTorch modules of the surrogate's mean and covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from torch import Tensor

from qsearch.search.layer_scores import weighted_scores
from qsearch.space.sampling import sample_configurations
from qsearch.surrogate.additive_posterior import AdditiveKernel
from qsearch.surrogate.error_correlation import error_correlation
from qsearch.surrogate.features import score_features
from qsearch.surrogate.kernels import ProxyMean, SamplingNoiseKernel, SumKernel
from tests.engine.fake_study import errors_of, make_space

SPACE = make_space(1)
SENSITIVITY = np.random.default_rng(0).gamma(0.5, size=len(SPACE.groups))
FEATURES = score_features(
    SPACE,
    weighted_scores(SPACE, errors_of(SPACE), SENSITIVITY),
    error_correlation(NormalFloat(NormalFloat.Options())),
)


def sampled(count: int, seed: int) -> Tensor:
    """Choice indices as GPyTorch is given them: floating point."""
    index = sample_configurations(SPACE, count, (2.25, 7.25), np.random.default_rng(seed))
    return torch.from_numpy(index).double()


@pytest.mark.parametrize("sums", [FEATURES.error_kernel, FEATURES.proxy_kernel])
def test_covariances_are_those_of_the_sum_over_groups(sums: AdditiveKernel) -> None:
    kernel, one, other = SumKernel(sums), sampled(4, 1), sampled(5, 2)
    torch.testing.assert_close(kernel(one, other).to_dense(), sums(one.long(), other.long()))
    whole = sums(one.long(), one.long())
    torch.testing.assert_close(kernel(one, diag=True), whole.diagonal())
    batch = torch.stack([one, one.flip(0)])
    torch.testing.assert_close(
        kernel(batch, batch).to_dense(), torch.stack([whole, whole.flip(0, 1)])
    )


def test_a_kernel_is_not_confused_by_what_it_was_asked_before() -> None:
    kernel = SumKernel(FEATURES.error_kernel)
    first, second = sampled(4, 1), sampled(4, 2)
    before = kernel(first, first).to_dense()
    assert not torch.equal(kernel(first, second).to_dense(), before)
    assert torch.equal(kernel(first, first).to_dense(), before)


def test_sampling_noise_is_that_of_examples_whose_gradients_have_the_fisher_information() -> None:
    """Simulated: per-example effects ⟨γ, D⟩ with E⟨γ, D⟩² = 2 s z, averaged over n examples."""
    mean = ProxyMean(FEATURES)
    slope, examples, draws = float(mean.slope), 2, 5_000
    values, vectors = torch.linalg.eigh(FEATURES.correlation)
    factor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    inputs = sampled(4, 4)
    index = inputs.long()
    generator = torch.Generator().manual_seed(0)
    averages = torch.zeros(draws, len(index), dtype=torch.float64)
    rows = torch.arange(len(SPACE.groups))
    for _ in range(examples):
        for group in rows.tolist():
            shape = (draws, SPACE.choices.size)
            gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
            effect = gradient @ factor[:, index[:, group]]
            averages += FEATURES.proxy[group, index[:, group]].sqrt() * effect / examples
    simulated = torch.cov((averages * (2 * slope) ** 0.5).T)
    kernel = SamplingNoiseKernel(SumKernel(FEATURES.error_kernel), mean, examples)
    expected = kernel(inputs, inputs).to_dense().detach()
    torch.testing.assert_close(simulated, expected, rtol=0.1, atol=0.05 * float(expected.max()))
