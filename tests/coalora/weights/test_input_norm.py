"""The norm of the layers' inputs, and what residual factors gain by it."""

from __future__ import annotations

import pytest
import torch
from qsearch_coalora.adapter.residual import residual_factors
from qsearch_coalora.weights import input_norm
from qsearch_coalora.weights.input_norm import FLOOR, InputNorm, input_norms
from torch import Tensor, nn


def inputs_of_unequal_directions(tokens: int, features: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator) * torch.logspace(1, -2, features)
    return torch.randn(tokens, features, generator=generator) @ mixing.T


def norm_of_batches(batches: list[dict[str, Tensor]]) -> InputNorm:
    used, unused = nn.Linear(batches[0]["x"].shape[-1], 3), nn.Linear(8, 2)
    norm, none = input_norms(
        [used, unused], lambda b: used(b["x"]), batches, torch.Generator().manual_seed(0)
    )
    assert norm is not None
    assert none is None  # It had no inputs.
    return norm


def norm_of(inputs: Tensor, batches: int = 2) -> InputNorm:
    return norm_of_batches([{"x": part} for part in inputs.chunk(batches)])


def test_the_norm_is_the_rms_change_of_the_outputs() -> None:
    inputs = inputs_of_unequal_directions(500, 16)
    error = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    moved = (inputs @ error.T).square().sum(1).mean()
    floor = FLOOR * inputs.square().mean() * error.square().sum()
    weighed = norm_of(inputs).whiten(error).square().sum()
    torch.testing.assert_close(weighed, moved + floor, rtol=1e-4, atol=0)


def test_directions_beyond_the_components_weigh_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_norm, "COMPONENTS", 4)
    inputs = inputs_of_unequal_directions(400, 20)
    norm = norm_of(inputs)
    assert norm.basis.shape == (20, 4)
    total = norm.scales.square().sum() + 16 * norm.rest**2
    expected = inputs.square().sum(1).mean() * (1 + FLOOR)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=0)


def test_padding_does_not_count() -> None:
    inputs = inputs_of_unequal_directions(60, 8).view(6, 10, 8)
    mask = (torch.arange(10) < 7).expand(6, 10).long()
    padded = inputs.clone()
    padded[:, 7:] = 100.0
    masked, plain = (
        norm_of_batches([batch])
        for batch in ({"x": padded, "attention_mask": mask}, {"x": inputs[:, :7]})
    )
    torch.testing.assert_close(masked.scales, plain.scales, rtol=1e-4, atol=1e-5)


def test_inputs_of_zeros_weigh_all_directions_alike() -> None:
    error = torch.randn(4, 8, generator=torch.Generator().manual_seed(4))
    whitened = norm_of(torch.zeros(20, 8)).whiten(error)
    torch.testing.assert_close(whitened / whitened.norm(), error / error.norm())


def test_factors_in_the_norm_of_the_inputs_change_the_outputs_least() -> None:
    inputs = inputs_of_unequal_directions(600, 40)
    weight = torch.randn(30, 40, generator=torch.Generator().manual_seed(5))
    none = torch.zeros_like(weight)
    norm = norm_of(inputs)
    found = residual_factors(weight, none, 4, torch.Generator().manual_seed(0), norm)
    plain = residual_factors(weight, none, 4, torch.Generator().manual_seed(0))
    whitened = norm.whiten(weight)
    best = torch.linalg.svdvals(whitened)[4:].norm()
    left = [norm.whiten(weight - factors.L1 @ factors.L2).norm() for factors in (found, plain)]
    assert left[0] <= 1.01 * best
    assert left[0] < 0.9 * left[1]
    # Factors are as long as each other.
    torch.testing.assert_close(found.L1.norm(dim=0), found.L2.norm(dim=1), rtol=1e-4, atol=1e-6)
