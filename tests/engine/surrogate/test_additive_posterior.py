"""Posteriors that add over groups, against the formulas of Gaussian process regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from qsearch.surrogate.additive_posterior import (
    AdditiveKernel,
    AdditivePosterior,
    Term,
    additive_posterior,
    gather,
)

GROUPS, CHOICES, DATA = 3, 5, 7
NOISE = 0.1


def drawn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def indices(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(CHOICES, (count, GROUPS), generator=generator)


def correlation() -> Tensor:
    factor = drawn(CHOICES, 3, seed=0)
    factor = torch.cat([factor, torch.eye(CHOICES, dtype=torch.float64)], dim=1)
    factor = factor / factor.norm(dim=1, keepdim=True)
    return factor @ factor.T


BY_ERROR = Term(drawn(GROUPS, CHOICES, seed=1).abs(), correlation())
BY_SCALE = Term(drawn(GROUPS, CHOICES, seed=12).abs(), None)
KERNEL = AdditiveKernel((BY_ERROR, BY_SCALE))
SAMPLING_NOISE = AdditiveKernel((BY_ERROR,)).scaled(0.5)
PRIOR_MEAN = drawn(GROUPS, CHOICES, seed=2)
INPUTS, TARGETS = indices(DATA, 3), drawn(DATA, seed=4)


def posterior() -> AdditivePosterior:
    return additive_posterior(KERNEL, SAMPLING_NOISE, NOISE, INPUTS, TARGETS, 0.7, PRIOR_MEAN)


def by_entry(kernel: AdditiveKernel, first: Tensor, second: Tensor) -> Tensor:
    """Σ_g r_g(c_g) R[c_g, c'_g] r_g(c'_g), summed over terms, entry by entry."""

    def entry(a: Tensor, b: Tensor) -> float:
        return sum(
            float(term.root[g, a[g]] * term.root[g, b[g]])
            * (1.0 if term.correlation is None else float(term.correlation[a[g], b[g]]))
            for term in kernel.terms
            for g in range(GROUPS)
        )

    return torch.tensor([[entry(a, b) for b in second] for a in first], dtype=torch.float64)


def regression(
    kernel: AdditiveKernel, inputs: Tensor, targets: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean k (K + L + N)⁻¹ (y − m) + m, variance k − k (K + L + N)⁻¹ k; L of sampling noise."""

    def mean(at: Tensor) -> Tensor:
        sums = [sum(PRIOR_MEAN[g, row[g]] for g in range(GROUPS)) for row in at]
        return 0.7 + torch.tensor(sums, dtype=torch.float64)

    observed = by_entry(KERNEL, inputs, inputs) + by_entry(SAMPLING_NOISE, inputs, inputs)
    inverse = torch.linalg.inv(observed + NOISE * torch.eye(len(inputs)))
    cross = by_entry(kernel, points, inputs)
    prior = by_entry(kernel, points, points).diagonal()
    variance = prior - (cross @ inverse * cross).sum(dim=1)
    return mean(points) + cross @ inverse @ (targets - mean(inputs)), variance


def test_kernels_add_up_and_scale() -> None:
    one, other = indices(4, 13), indices(5, 14)
    expected = by_entry(KERNEL, one, other)
    torch.testing.assert_close(KERNEL(one, other), expected)
    torch.testing.assert_close(
        (KERNEL + SAMPLING_NOISE)(one, other), expected + by_entry(SAMPLING_NOISE, one, other)
    )
    torch.testing.assert_close(KERNEL.scaled(3.0)(one, other), 3 * expected)
    variance = gather(KERNEL.variances, one).sum(dim=-1)
    torch.testing.assert_close(variance, by_entry(KERNEL, one, one).diagonal())


def test_predictions_are_those_of_the_formula() -> None:
    points = indices(9, 5)
    mean, variance = posterior().predict(points)
    expected_mean, expected_variance = regression(KERNEL, INPUTS, TARGETS, points)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(variance, expected_variance, rtol=1e-4, atol=1e-5)


def test_moves_are_predicted_as_the_configurations_that_they_make() -> None:
    start = indices(1, 6)[0]
    groups, choices = torch.tensor([0, 0, 2]), torch.tensor([1, 4, 3])
    points = start.repeat(3, 1)
    points[torch.arange(3), groups] = choices
    for one, other in zip(
        posterior().predict_moves(start, groups, choices), posterior().predict(points), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", [(1,), (3,), (1, 3)])
def test_fantasies_are_data_at_the_posterior_mean(parts: tuple[int, ...]) -> None:
    """They may come one after another."""
    pending, points = indices(sum(parts), 7), indices(9, 8)
    means, _ = regression(KERNEL + SAMPLING_NOISE, INPUTS, TARGETS, pending)
    grown = posterior()
    for part in pending.split(parts):
        grown = grown.fantasise(part)
    inputs, targets = torch.cat([INPUTS, pending]), torch.cat([TARGETS, means])
    mean, variance = regression(KERNEL, inputs, targets, points)
    torch.testing.assert_close(grown.predict(points)[0], mean)
    torch.testing.assert_close(grown.predict(points)[1], variance, rtol=1e-4, atol=1e-5)
    assert torch.equal(grown.inputs, inputs)


def test_many_configurations_are_predicted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    points = indices(50, 11)
    whole = posterior().predict(points)
    monkeypatch.setattr("qsearch.surrogate.additive_posterior._CHUNK", 16)
    for one, other in zip(posterior().predict(points), whole, strict=True):
        assert torch.equal(one, other)


def test_variances_stay_positive_where_everything_is_known() -> None:
    known = additive_posterior(
        KERNEL,
        AdditiveKernel(),
        1e-9,
        INPUTS[:1],
        TARGETS[:1],
        0.0,
        torch.zeros(GROUPS, CHOICES, dtype=torch.float64),
    )
    assert float(known.predict(INPUTS[:1])[1]) > 0
    assert np.isfinite(float(known.predict(INPUTS[:1])[1].log()))
