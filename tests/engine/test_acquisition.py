"""Expected hypervolume improvement with one exactly known objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from botorch.utils.multi_objective.box_decompositions.non_dominated import (
    NondominatedPartitioning,
)
from gpytorch.distributions import MultitaskMultivariateNormal
from hypothesis import given
from hypothesis import strategies as st
from linear_operator.operators import DiagLinearOperator
from torch import Tensor

from qsearch.acquisition import log_expected_hypervolume_improvement as log_ehvi
from qsearch.errors import InputError
from qsearch.pareto import front, hypervolume

REFERENCE = (1.0, 8.0)


def random_case(seed: int, points: int = 12, candidates: int = 8) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, count: int) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    losses, bits = uniform(0.2, 1.2, points), uniform(2, 9, points)
    known = torch.from_numpy(front(torch.stack([losses, bits], dim=1).numpy()))
    return (
        uniform(0.1, 1.1, candidates),
        uniform(0.02, 0.4, candidates),
        uniform(1.5, 7.9, candidates),
        known,
    )


@pytest.mark.parametrize("seed", range(4))
def test_equals_monte_carlo_of_the_hypervolume(seed: int) -> None:
    mean, deviation, bits, known = random_case(seed)
    exact = log_ehvi(mean, deviation, bits, known, REFERENCE).exp()
    generator = np.random.default_rng(seed)
    before = hypervolume(known.numpy(), REFERENCE)
    for position in range(3):
        losses = generator.normal(float(mean[position]), float(deviation[position]), 2000)
        gains = np.array(
            [
                hypervolume(np.vstack([known.numpy(), [loss, float(bits[position])]]), REFERENCE)
                - before
                for loss in losses
            ]
        )
        tolerance = 4.5 * float(gains.std()) / np.sqrt(len(gains)) + 1e-9
        assert float(exact[position]) == pytest.approx(float(gains.mean()), abs=tolerance)


class Known(Model):
    """A model with a Gaussian loss and average bits that are almost exact, both negated."""

    num_outputs = 2

    def __init__(self, mean: Tensor, deviation: Tensor, bits: Tensor) -> None:
        super().__init__()
        self.means = torch.stack([-mean, -bits], dim=1)
        self.variances = torch.stack([deviation**2, torch.full_like(bits, 1e-12)], dim=1)

    def posterior(self, X: Tensor, *_: object, **__: object) -> GPyTorchPosterior:
        chosen = X[..., 0].long()
        mean, variance = self.means[chosen], self.variances[chosen]
        covariance = DiagLinearOperator(variance.flatten(-2))
        return GPyTorchPosterior(MultitaskMultivariateNormal(mean, covariance))


@pytest.mark.parametrize("seed", range(6))
def test_equals_botorchs_analytic_ehvi(seed: int) -> None:
    mean, deviation, bits, known = random_case(seed)
    reference = -torch.tensor(REFERENCE, dtype=torch.float64)
    theirs = ExpectedHypervolumeImprovement(
        model=Known(mean, deviation, bits),
        ref_point=reference,
        partitioning=NondominatedPartitioning(ref_point=reference, Y=-known),
    )(torch.arange(len(mean), dtype=torch.float64)[:, None, None])
    mine = log_ehvi(mean, deviation, bits, known, REFERENCE).exp()
    # BoTorch's bits have a standard deviation of 1e-6, which may cross a strip's edge.
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_certain_candidate_gains_its_hypervolume() -> None:
    known = torch.tensor([[0.5, 4.0], [0.3, 6.0]], dtype=torch.float64)
    mean = torch.tensor([0.4, 0.9], dtype=torch.float64)
    bits = torch.tensor([3.0, 5.0], dtype=torch.float64)
    gain = log_ehvi(mean, torch.full_like(mean, 1e-9), bits, known, REFERENCE).exp()
    # Left of the front: one strip of 1 bit under the reference, one of 2 bits under 0.5.
    assert float(gain[0]) == pytest.approx(1 * 0.6 + 2 * 0.1)
    assert float(gain[1]) == 0.0


@given(st.floats(-3, 3), st.floats(1e-3, 2), st.floats(0.5, 7.5))
def test_without_a_front_it_is_expected_improvement_times_the_width(
    mean: float, deviation: float, bits: float
) -> None:
    tensors = [torch.tensor([value], dtype=torch.float64) for value in (mean, deviation, bits)]
    value = log_ehvi(*tensors, torch.zeros(0, 2, dtype=torch.float64), REFERENCE)
    normal = torch.distributions.Normal(0.0, 1.0)
    u = torch.tensor((REFERENCE[0] - mean) / deviation, dtype=torch.float64)
    expected = deviation * (normal.log_prob(u).exp() + u * normal.cdf(u)) * (REFERENCE[1] - bits)
    assert float(value.exp()) == pytest.approx(float(expected), rel=1e-4, abs=1e-7)


def test_log_stays_finite_and_ordered_where_the_improvement_underflows() -> None:
    mean = torch.tensor([5.0, 50.0, 500.0], dtype=torch.float64)
    known = torch.tensor([[0.3, 2.0]], dtype=torch.float64)
    value = log_ehvi(mean, torch.full_like(mean, 1e-2), torch.full_like(mean, 4), known, REFERENCE)
    assert torch.isfinite(value).all()
    assert (value.diff() < 0).all()
    assert float(value[1].exp()) == 0.0


def test_log_has_a_gradient_where_the_improvement_underflows() -> None:
    mean = torch.tensor([50.0], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([0.01], dtype=torch.float64)
    known = torch.tensor([[0.3, 2.0]], dtype=torch.float64)
    log_ehvi(mean, other, other + 4, known, REFERENCE).sum().backward()
    assert mean.grad is not None
    assert torch.isfinite(mean.grad).all()
    assert float(mean.grad) < 0


@pytest.mark.parametrize("bits", [8.0, 9.0, 1e6])
def test_candidate_at_or_beyond_the_reference_bits_scores_minus_infinity(bits: float) -> None:
    one = torch.ones(1, dtype=torch.float64)
    empty = torch.zeros(0, 2, dtype=torch.float64)
    assert float(log_ehvi(0.1 * one, one, bits * one, empty, REFERENCE)) == -np.inf


def test_front_points_beyond_the_reference_do_not_count() -> None:
    mean, deviation, bits, known = random_case(0)
    outside = torch.tensor([[1.5, 0.5], [0.0, 9.0]], dtype=torch.float64)
    more = torch.cat([outside[:1], known, outside[1:]])
    torch.testing.assert_close(
        log_ehvi(mean, deviation, bits, more, REFERENCE),
        log_ehvi(mean, deviation, bits, known[(known[:, 0] < 1) & (known[:, 1] < 8)], REFERENCE),
    )


@pytest.mark.parametrize("seed", range(3))
def test_lower_mean_or_fewer_bits_are_never_worse(seed: int) -> None:
    mean, deviation, bits, known = random_case(seed)
    value = log_ehvi(mean, deviation, bits, known, REFERENCE)
    assert (log_ehvi(mean - 0.1, deviation, bits, known, REFERENCE) >= value).all()
    assert (log_ehvi(mean, deviation, bits - 0.1, known, REFERENCE) >= value).all()


def test_shapes_that_disagree_are_refused() -> None:
    two, three = torch.ones(2), torch.ones(3)
    with pytest.raises(InputError, match="vectors of one length"):
        log_ehvi(two, two, three, torch.zeros(0, 2), REFERENCE)
    with pytest.raises(InputError, match=r"shape \(m, 2\)"):
        log_ehvi(two, two, two, torch.zeros(0, 3), REFERENCE)
