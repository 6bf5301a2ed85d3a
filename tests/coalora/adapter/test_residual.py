"""The low-rank part that a weight is quantized without."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from qsearch_coalora.adapter.residual import residual_factors, stripped_factors
from torch import Tensor

from qsearch.testing.samples import normal_weight


def to_halves(matrix: Tensor) -> Tensor:
    """Round to multiples of a half."""
    return (2 * matrix).round() / 2


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def left(weight: Tensor, turns: int) -> float:
    """Return the squared error of quantized and low-rank part after some turns."""
    part = stripped_factors(weight, to_halves, 4, turns, generator())
    quantized = to_halves(weight - part.L1 @ part.L2)
    residual = residual_factors(weight, quantized, 4, generator())
    return float((weight - quantized - residual.L1 @ residual.L2).square().sum())


@given(seed=st.integers(0, 10_000), turns=st.integers(1, 6))
def test_more_turns_leave_no_more_error(seed: int, turns: int) -> None:
    weight = normal_weight(24, 32, std=1.0, seed=seed)
    assert left(weight, turns + 1) <= left(weight, turns) * (1 + 1e-5)


def test_a_weight_of_low_rank_and_values_that_are_stored_exactly_are_told_from_each_other() -> None:
    part = normal_weight(24, 2, std=8.0, seed=1) @ normal_weight(2, 32, std=8.0, seed=2)
    exact = to_halves(normal_weight(24, 32, std=1.0, seed=3))
    plain = residual_factors(part + exact, to_halves(part + exact), 4, generator())
    assert left(part + exact, 8) < plain.error


def test_the_same_generator_gives_the_same_part() -> None:
    weight = normal_weight(24, 32, std=1.0)
    first, second = (stripped_factors(weight, to_halves, 4, 3, generator()) for _ in range(2))
    assert torch.equal(first.L1, second.L1)
    assert torch.equal(first.L2, second.L2)
