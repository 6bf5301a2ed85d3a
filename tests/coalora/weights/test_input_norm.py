"""The norm of the layers' inputs, and what residual factors gain by it."""

from __future__ import annotations

from collections.abc import Mapping

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


def norm_of(inputs: Tensor, batches: int = 2) -> InputNorm:
    layer = nn.Linear(inputs.shape[1], 3)
    parts = [{"x": part} for part in inputs.chunk(batches)]
    run = lambda batch: layer(batch["x"])  # noqa: E731
    found = input_norms([layer], run, parts, torch.Generator().manual_seed(0))[0]
    assert found is not None
    return found


def test_the_norm_is_the_rms_change_of_the_outputs() -> None:
    inputs = inputs_of_unequal_directions(500, 16)
    error = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    moved = (inputs @ error.T).square().sum(1).mean()
    floor = FLOOR * inputs.square().mean() * error.square().sum()
    weighed = norm_of(inputs).whiten(error).square().sum()
    torch.testing.assert_close(weighed, moved + floor, rtol=1e-4, atol=0)


def test_whitening_is_undone() -> None:
    norm = norm_of(inputs_of_unequal_directions(300, 24))
    rows = torch.randn(5, 24, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(norm.unwhiten(norm.whiten(rows)), rows, rtol=1e-3, atol=1e-4)


def test_directions_beyond_the_components_weigh_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_norm, "COMPONENTS", 4)
    inputs = inputs_of_unequal_directions(400, 20)
    norm = norm_of(inputs)
    assert norm.basis.shape == (20, 4)
    total = norm.scales.square().sum() + 16 * norm.rest**2
    expected = inputs.square().sum(1).mean() * (1 + FLOOR)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=0)


def test_how_batches_are_cut_makes_no_difference() -> None:
    inputs = inputs_of_unequal_directions(240, 12)
    error = torch.randn(6, 12, generator=torch.Generator().manual_seed(3))
    whole, parts = norm_of(inputs, 1).whiten(error), norm_of(inputs, 5).whiten(error)
    torch.testing.assert_close(whole @ whole.T, parts @ parts.T, rtol=1e-3, atol=1e-3)


def test_padding_does_not_count() -> None:
    inputs = inputs_of_unequal_directions(60, 8).view(6, 10, 8)
    mask = (torch.arange(10) < 7).expand(6, 10).long()
    layer = nn.Linear(8, 2)

    def run(batch: Mapping[str, Tensor]) -> Tensor:
        output: Tensor = layer(batch["x"])
        return output

    padded = inputs.clone()
    padded[:, 7:] = 100.0
    found = [
        input_norms([layer], run, [batch], torch.Generator().manual_seed(0))[0]
        for batch in ({"x": padded, "attention_mask": mask}, {"x": inputs[:, :7]})
    ]
    assert found[0] is not None
    assert found[1] is not None
    torch.testing.assert_close(found[0].scales, found[1].scales, rtol=1e-4, atol=1e-5)


def test_a_layer_without_inputs_has_no_norm() -> None:
    used, unused = nn.Linear(8, 2), nn.Linear(8, 2)
    batches = [{"x": torch.ones(3, 8)}]
    found = input_norms([unused, used], lambda b: used(b["x"]), batches, torch.Generator())
    assert found[0] is None
    assert found[1] is not None


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


def test_factors_in_the_norm_of_the_inputs_are_as_long_as_each_other() -> None:
    norm = norm_of(inputs_of_unequal_directions(200, 16))
    weight = torch.randn(10, 16, generator=torch.Generator().manual_seed(6))
    found = residual_factors(weight, torch.zeros_like(weight), 3, torch.Generator(), norm)
    torch.testing.assert_close(found.L1.norm(dim=0), found.L2.norm(dim=1), rtol=1e-4, atol=1e-6)
