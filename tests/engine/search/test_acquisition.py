"""Expected hypervolume improvement with one exactly known objective."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.exceptions.errors import UnsupportedError
from botorch.models import SingleTaskGP
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from botorch.utils.multi_objective.box_decompositions.non_dominated import (
    NondominatedPartitioning,
)
from gpytorch.distributions import MultitaskMultivariateNormal
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_operator.operators import DiagLinearOperator
from torch import Tensor

from qsearch.errors import InputError
from qsearch.search.acquisition import LogEHVIKnownObjective
from qsearch.search.acquisition import log_expected_hypervolume_improvement as log_ehvi
from qsearch.search.pareto import front

REFERENCE = (1.0, 8.0)


KNOWN = torch.tensor([[0.5, 4.0], [0.3, 6.0]], dtype=torch.float64)
MEAN = torch.tensor([0.4, 0.9], dtype=torch.float64)
BITS = torch.tensor([3.0, 5.0], dtype=torch.float64)


def test_a_certain_candidate_gains_its_hypervolume() -> None:
    gain = log_ehvi(MEAN, torch.full_like(MEAN, 1e-9), BITS, KNOWN, REFERENCE).exp()
    # Left of the front: one strip of 1 bit under the reference, one of 2 bits under 0.5.
    assert float(gain[0]) == pytest.approx(1 * 0.6 + 2 * 0.1)
    assert float(gain[1]) == 0.0


@settings(max_examples=30)
@given(st.floats(-3, 3), st.floats(1e-3, 2), st.floats(0.5, 7.5))
def test_without_a_front_it_is_expected_improvement_times_the_width(
    mean: float, std: float, bits: float
) -> None:
    tensors = [torch.tensor([value], dtype=torch.float64) for value in (mean, std, bits)]
    value = log_ehvi(*tensors, torch.zeros(0, 2, dtype=torch.float64), REFERENCE)
    normal = torch.distributions.Normal(0.0, 1.0)
    u = torch.tensor((REFERENCE[0] - mean) / std, dtype=torch.float64)
    expected = std * (normal.log_prob(u).exp() + u * normal.cdf(u)) * (REFERENCE[1] - bits)
    assert float(value.exp()) == pytest.approx(float(expected), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("bits", [8.0, 9.0, 1e6])
def test_candidate_at_or_beyond_the_reference_bits_scores_minus_infinity(bits: float) -> None:
    one = torch.ones(1, dtype=torch.float64)
    empty = torch.zeros(0, 2, dtype=torch.float64)
    assert float(log_ehvi(0.1 * one, one, bits * one, empty, REFERENCE)) == -np.inf


def test_front_points_beyond_the_reference_do_not_count() -> None:
    outside = torch.tensor([[1.5, 0.5], [0.0, 9.0]], dtype=torch.float64)
    more = torch.cat([outside[:1], KNOWN, outside[1:]])
    torch.testing.assert_close(
        log_ehvi(MEAN, 0.1 * MEAN, BITS, more, REFERENCE),
        log_ehvi(MEAN, 0.1 * MEAN, BITS, KNOWN, REFERENCE),
    )


def test_shapes_that_disagree_are_refused() -> None:
    two, three = torch.ones(2), torch.ones(3)
    with pytest.raises(InputError, match="vectors of one length"):
        log_ehvi(two, two, three, torch.zeros(0, 2), REFERENCE)
    with pytest.raises(InputError, match=r"shape \(m, 2\)"):
        log_ehvi(two, two, two, torch.zeros(0, 3), REFERENCE)


def average(X: Tensor) -> Tensor:
    """A known objective in [2, 8] of points in the unit cube (… × 1 × d)."""
    return 2 + 6 * X.mean(dim=(-2, -1))


def fitted_model(points: int = 12, seed: int = 0) -> tuple[SingleTaskGP, Tensor]:
    """A process for a loss that falls as the average rises, and its points (loss, average)."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(points, 3, generator=generator, dtype=torch.float64)
    loss = 0.9 * (1 - X.mean(dim=1)).square() + 0.1 * X[:, 0]
    model = SingleTaskGP(X, loss[:, None], torch.full_like(loss[:, None], 1e-4))
    return model.eval(), torch.stack([loss, average(X[:, None])], dim=1)


def mine(reference: tuple[float, float] = REFERENCE) -> LogEHVIKnownObjective:
    return LogEHVIKnownObjective(*fitted_model(), reference, average)


def candidates(count: int, seed: int = 100) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 3, generator=generator, dtype=torch.float64)


class Both(Model):
    """The model's loss next to the known objective with almost no variance, both negated."""

    num_outputs = 2

    def __init__(self, model: SingleTaskGP, variance: float) -> None:
        super().__init__()
        self.model, self.variance = model, variance

    def posterior(self, X: Tensor, *_: object, **__: object) -> GPyTorchPosterior:
        loss = self.model.posterior(X)
        mean = torch.stack([loss.mean.squeeze(-1), average(X)[..., None]], dim=-1)
        other = torch.full_like(loss.variance, self.variance)
        covariance = DiagLinearOperator(torch.cat([loss.variance, other], dim=-1).flatten(-2))
        return GPyTorchPosterior(MultitaskMultivariateNormal(-mean, covariance))


@pytest.mark.parametrize("seed", range(3))
def test_acquisition_equals_botorchs_analytic_ehvi(seed: int) -> None:
    model, points = fitted_model(seed=seed)
    reference = -torch.tensor(REFERENCE, dtype=torch.float64)
    theirs = ExpectedHypervolumeImprovement(
        model=Both(model, 1e-9),
        ref_point=reference,
        partitioning=NondominatedPartitioning(ref_point=reference, Y=-points),
    )
    mine = LogEHVIKnownObjective(model, points, REFERENCE, average)
    X = candidates(64)
    # BoTorch raises variances to 1e-9, so only candidates away from a strip's edge can agree.
    edges = torch.cat([points[:, 1], reference[1:].neg()])
    assert float((average(X)[:, None] - edges).abs().min()) > 2e-4
    # It adds probabilities and not their logarithms: its absolute error is about 1e-16.
    torch.testing.assert_close(mine(X).exp(), theirs(X), rtol=1e-6, atol=1e-13)


def test_acquisition_has_finite_values_and_gradients_where_ehvi_underflows() -> None:
    model, points = fitted_model()
    # All of the front far below what the model can reach.
    unreachable = points - torch.tensor([100.0, 0.0], dtype=torch.float64)
    acquisition = LogEHVIKnownObjective(model, unreachable, (-99.0, 8.0), average)
    X = candidates(16).requires_grad_()
    value = acquisition(X)
    (gradient,) = torch.autograd.grad(value.sum(), X)
    assert (value.exp() == 0).all()
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert (gradient.abs().amax(dim=(1, 2)) > 0).all()


def test_acquisition_has_finite_gradients_at_the_front_itself() -> None:
    """There the candidate's bits are exactly the edge of a strip, whose width is 0."""
    X = mine().model.train_inputs[0][:, None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mine()(X).sum(), X)
    assert torch.isfinite(gradient).all()


def test_acquisition_gradient_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(mine(), candidates(6).requires_grad_(), atol=1e-4)


def test_acquisition_leads_back_from_beyond_the_reference() -> None:
    levels = torch.tensor([0.49, 0.6, 0.8, 1.0], dtype=torch.float64)
    X = levels[:, None, None].repeat(1, 1, 3).requires_grad_()
    value = mine((1.0, 5.0))(X)
    (gradient,) = torch.autograd.grad(value.sum(), X)
    assert torch.isfinite(value).all()
    assert (value[0] > value[1:]).all()
    assert (value[1:].exp() < 1e-6).all()
    assert (gradient[1:].sum(dim=-1) < 0).all()


def test_acquisition_takes_any_batch_shape() -> None:
    acquisition, X = mine(), candidates(6)
    assert acquisition(X[0]).shape == (1,)
    torch.testing.assert_close(acquisition(X.view(2, 3, 1, 3)), acquisition(X).view(2, 3))


def test_acquisition_takes_points_in_any_order_and_leaves_dominated_ones_out() -> None:
    model, points = fitted_model()
    X = candidates(8)
    ordered = torch.from_numpy(front(points.numpy()))
    mixed = torch.cat([points.flip(0), points + 0.1])
    torch.testing.assert_close(
        LogEHVIKnownObjective(model, mixed, REFERENCE, average)(X),
        LogEHVIKnownObjective(model, ordered, REFERENCE, average)(X),
    )


def test_acquisition_refuses_what_it_cannot_use() -> None:
    model, points = fitted_model()
    with pytest.raises(InputError, match="one output, not 2"):
        LogEHVIKnownObjective(Both(model, 1e-9), points, REFERENCE, average)
    with pytest.raises(InputError, match=r"shape \(4,\), not \(4, 1\)"):
        LogEHVIKnownObjective(model, points, REFERENCE, lambda X: X.mean(dim=-1))(candidates(4))
    with pytest.raises(UnsupportedError, match="condition"):
        mine().set_X_pending(candidates(1))
    with pytest.raises(AssertionError, match="q=1"):
        mine()(torch.rand(5, 2, 3))


def test_the_example_of_the_guide_runs() -> None:
    guide = Path(__file__).parents[3] / "docs" / "howto-ax.md"
    (code,) = re.findall(r"```python\n(import torch\n.*?)```", guide.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        exec(code, names)
    assert names["candidate"].shape == (1, 5)
    assert float(names["value"]) > float(names["acquisition"](names["X"][:, None]).max())
