from __future__ import annotations

from typing import Any

import pytest
import torch
from qsearch_coalora.adapter.folding import FoldedProjections, random_basis
from qsearch_coalora.adapter.theta import Theta
from qsearch_coalora.settings.theta import ThetaOptions
from torch import nn

from qsearch.space.configuration import Choices, Configuration, Knob
from qsearch.space.layers import LayerSpec

LAYERS = tuple(
    LayerSpec(f"blocks.{block}.{role}", role, block, (8, 8))
    for block in range(3)
    for role in ("query", "output")
)


def make_theta(knobs: int = 5, **options: Any) -> Theta:
    choices = Choices(tuple(Knob(f"knob{index}", (1, 2, 3)) for index in range(knobs)))
    draw = torch.Generator().manual_seed(0)
    return Theta(choices, LAYERS, 4, ThetaOptions(**options), draw)


def codes_of(theta: Theta, choice: int = 0) -> torch.Tensor:
    """Codes of all layers under one layer configuration."""
    chosen = theta.choices.layer_configuration(choice)
    return theta.encode(Configuration({layer.name: chosen for layer in LAYERS}), LAYERS)


@pytest.mark.parametrize("knobs", [1, 5])
def test_theta_serves_any_number_of_knobs(knobs: int) -> None:
    theta = make_theta(knobs)
    assert theta(codes_of(theta)).shape == (len(LAYERS), 4, 4)
    # Five knobs, role and block of 8 dimensions give the paper's width of 56.
    assert theta.norm.normalized_shape == (8 * (knobs + 2),)
    assert theta.hidden.out_features == 128
    narrow = make_theta(knobs, embedding_dim=3, hidden=5)
    assert narrow.norm.normalized_shape == (3 * (knobs + 2),)
    assert narrow.hidden.out_features == 5


def test_adjustments_depend_on_knob_role_and_block() -> None:
    theta = make_theta()
    codes = codes_of(theta)
    U = theta(codes)
    changed = codes.clone()
    changed[0, 2] = 1
    assert not torch.equal(theta(changed)[0], U[0])
    assert torch.equal(theta(changed)[1:], U[1:])
    assert len({tuple(matrix.flatten().tolist()) for matrix in U}) == len(LAYERS)


@pytest.mark.parametrize(("left_out", "distinct"), [("role", 3), ("block", 2), ("both", 1)])
def test_leaving_out_the_role_or_the_block_adjusts_those_alike(left_out: str, distinct) -> None:
    names = ("role", "block") if left_out == "both" else (left_out,)
    theta = make_theta(**dict.fromkeys(names, False))
    U = theta(codes_of(theta))
    assert len({tuple(matrix.flatten().tolist()) for matrix in U}) == distinct


def test_encoding_gives_value_indices_in_layer_order() -> None:
    theta = make_theta(2)
    choices = theta.choices
    configuration = Configuration(
        {layer.name: choices.layer_configuration(index) for index, layer in enumerate(LAYERS)}
    )
    codes = theta.encode(configuration, LAYERS)
    assert codes[:, :2].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert codes[:, 2:].tolist() == [[1, 0], [0, 0], [1, 1], [0, 1], [1, 2], [0, 2]]


@pytest.mark.parametrize("rank", [None, 2])
def test_adjustments_start_near_zero_and_learn(rank: int | None) -> None:
    theta = make_theta(rank=rank)
    U = theta(codes_of(theta, 1))
    assert U.abs().max() < 0.05
    U.sum().backward()
    assert theta.output.weight.grad.abs().max() > 1e-2


def test_a_rank_bounds_the_rank_of_adjustments() -> None:
    theta = make_theta(rank=2)
    torch.nn.init.normal_(theta.output.weight)
    assert set(torch.linalg.matrix_rank(theta(codes_of(theta))).tolist()) == {2}


@pytest.mark.parametrize("additive", [False, True])
def test_each_layer_multiplies_by_its_adjusted_factor(additive: bool) -> None:
    """A + U·A, or A + U·R with a basis R, whatever the layers' widths; the gradient reaches A."""
    widths, draw = (8, 6, 8), torch.Generator().manual_seed(0)
    projections = [nn.Linear(width, 4, bias=False).double() for width in widths]
    bases = [random_basis(4, width, draw).double() for width in widths] if additive else None
    folded = FoldedProjections(projections, bases)
    U = torch.randn(3, 4, 4, dtype=torch.float64)
    folded.set(U)
    for position, projection in enumerate(projections):
        inputs = torch.randn(2, projection.in_features, dtype=torch.float64)
        A = projection.weight.detach().clone().requires_grad_()
        expected = inputs @ (A + U[position] @ (A if bases is None else bases[position])).T
        outputs = projection(inputs)
        torch.testing.assert_close(outputs, expected)
        outputs.sum().backward(retain_graph=True)
        expected.sum().backward()
        torch.testing.assert_close(projection.weight.grad, A.grad)


def test_zero_or_cleared_adjustments_leave_plain_lora() -> None:
    projection = nn.Linear(8, 4, bias=False)
    inputs = torch.randn(3, 8)
    plain = projection(inputs)
    folded = FoldedProjections([projection])
    folded.set(torch.zeros(1, 4, 4))
    assert torch.equal(projection(inputs), plain)
    folded.set(torch.ones(1, 4, 4))
    assert not torch.equal(projection(inputs), plain)
    folded.clear()
    assert torch.equal(projection(inputs), plain)


@pytest.mark.parametrize(("rank", "features"), [(4, 9), (9, 4)])
def test_a_random_basis_has_orthonormal_rows_or_columns(rank: int, features: int) -> None:
    basis = random_basis(rank, features, torch.Generator().manual_seed(0))
    assert basis.shape == (rank, features)
    product = basis @ basis.T if rank <= features else basis.T @ basis
    torch.testing.assert_close(product, torch.eye(min(rank, features)), atol=1e-5, rtol=0)
