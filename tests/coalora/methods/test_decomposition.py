"""LQ-LoRA's decomposition of a weight, and the importance that it goes by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from qsearch_coalora.methods import decomposition
from qsearch_coalora.methods.decomposition import decompose
from qsearch_coalora.methods.importance import row_and_column_importance
from qsearch_quantizers.normal_float.quantizer import NormalFloat


@pytest.fixture
def decomposed() -> Callable[[], Any]:
    """Return a maker of a decomposition with its quantizing function, weight and importance."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=generator)
    quantizer = NormalFloat(NormalFloat.Options())
    chosen = quantizer.choices().layer_configuration(0)
    importance = (torch.rand(48, generator=generator) + 0.5, torch.rand(64, generator=generator))

    def quantized(matrix: torch.Tensor) -> torch.Tensor:
        return quantizer.dequantize(quantizer.quantize(matrix, chosen))

    def make() -> Any:
        found = decompose(weight, quantized, 4, importance, torch.Generator().manual_seed(0))
        return found, quantized, weight, importance[0][:, None] * importance[1][None]

    return make


def test_a_decomposition_is_better_than_quantizing(decomposed) -> None:
    found, quantized, weight, scale = decomposed()
    low_rank = found.L1 @ found.L2
    assert torch.linalg.matrix_rank(low_rank) == 4
    error = ((weight - quantized(weight - low_rank) - low_rank) * scale).double().square().sum()
    assert found.error == pytest.approx(float(error), rel=1e-6)
    torch.testing.assert_close(found.L1.norm(dim=0), found.L2.norm(dim=1))
    plain = float(((weight - quantized(weight)) * scale).double().square().sum())
    assert found.error < 0.7 * plain


def test_a_decomposition_takes_turns_until_its_error_rises(
    decomposed, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = decomposed()[0]
    errors = []
    for turns in range(1, found.turns + 2):
        monkeypatch.setattr(decomposition, "MAX_TURNS", turns)
        errors.append(decomposed()[0].error)
    assert found.turns > 1
    assert errors[:-1] == sorted(set(errors), reverse=True)
    assert errors[-1] == found.error


def test_importance_has_the_mean_of_the_fisher_information() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(3, 2, bias=False)
    inputs, targets = torch.randn(5, 4, 3), torch.randn(5, 4, 2)

    def run() -> torch.Tensor:
        return (linear(inputs) - targets).square().sum(dim=(1, 2))

    ((rows, columns),) = row_and_column_importance([linear], [run])
    gradients = []
    for example in range(5):
        loss = (linear(inputs[example]) - targets[example]).square().sum()
        gradients.append(torch.autograd.grad(loss, linear.weight)[0])
    fisher = torch.stack(gradients).square().mean(dim=0)
    assert float((rows.square()[:, None] * columns.square()).mean()) == pytest.approx(
        float(fisher.mean()), rel=1e-5
    )
    torch.testing.assert_close(rows.square(), fisher.mean(dim=1))
    torch.testing.assert_close(columns.square(), fisher.mean(dim=0) / fisher.mean())
