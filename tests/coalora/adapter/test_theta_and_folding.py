from __future__ import annotations

import pytest
import torch
from qsearch_coalora.adapter.folding import FoldedProjections, random_basis
from qsearch_coalora.adapter.theta import Theta, ThetaOptions
from torch import nn

from qsearch.space.configuration import Choices, Configuration, Knob, LayerConfiguration
from qsearch.space.layers import LayerSpec

LAYERS = tuple(
    LayerSpec(f"blocks.{block}.{role}", role, block, (8, 8))
    for block in range(3)
    for role in ("query", "output")
)


def make_theta(knobs: int = 5, rank: int = 4) -> Theta:
    choices = Choices(tuple(Knob(f"knob{index}", (1, 2, 3)) for index in range(knobs)))
    return Theta(choices, LAYERS, rank, ThetaOptions(), torch.Generator().manual_seed(0))


def codes_of(theta: Theta, choice: int = 0) -> torch.Tensor:
    """Codes of all layers under one layer configuration."""
    chosen = theta.choices.layer_configuration(choice)
    return theta.encode(Configuration({layer.name: chosen for layer in LAYERS}), LAYERS)


@pytest.mark.parametrize("knobs", [1, 2, 5])
def test_theta_serves_any_number_of_knobs(knobs: int) -> None:
    theta = make_theta(knobs)
    U = theta(codes_of(theta))
    assert U.shape == (len(LAYERS), 4, 4)
    assert theta.norm.normalized_shape == (8 * (knobs + 2),)


def test_five_knobs_give_the_papers_width_of_56() -> None:
    assert make_theta(5).hidden.in_features == 56
    assert make_theta(5).hidden.out_features == 128


def test_adjustments_start_near_zero() -> None:
    U = make_theta()(codes_of(make_theta(), 1))
    assert U.abs().max() < 0.05


def test_adjustments_depend_on_knob_role_and_block() -> None:
    theta = make_theta()
    codes = codes_of(theta)
    U = theta(codes)
    changed = codes.clone()
    changed[0, 2] = 1
    assert not torch.equal(theta(changed)[0], U[0])
    assert torch.equal(theta(changed)[1:], U[1:])
    assert len({tuple(matrix.flatten().tolist()) for matrix in U}) == len(LAYERS)


def test_encoding_gives_value_indices_in_layer_order() -> None:
    theta = make_theta(2)
    choices = theta.choices
    configuration = Configuration(
        {layer.name: choices.layer_configuration(index) for index, layer in enumerate(LAYERS)}
    )
    codes = theta.encode(configuration, LAYERS)
    assert codes[:, :2].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert codes[:, 2:].tolist() == [[1, 0], [0, 0], [1, 1], [0, 1], [1, 2], [0, 2]]


def test_codes_of_another_shape_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"layers × 7, not \(6, 4\)"):
        make_theta()(torch.zeros(6, 4, dtype=torch.long))


def test_zero_adjustments_change_nothing_at_all() -> None:
    projection = nn.Linear(8, 4, bias=False)
    inputs = torch.randn(3, 8)
    plain = projection(inputs)
    folded = FoldedProjections([projection])
    assert torch.equal(projection(inputs), plain)
    folded.set(torch.zeros(1, 4, 4))
    assert torch.equal(projection(inputs), plain)


def test_layers_of_other_widths_are_folded_apart() -> None:
    projections = [nn.Linear(width, 4, bias=False).double() for width in (8, 6, 8)]
    U = torch.randn(3, 4, 4, dtype=torch.float64)
    FoldedProjections(projections).set(U)
    for position, projection in enumerate(projections):
        inputs = torch.randn(2, projection.in_features, dtype=torch.float64)
        expected = inputs @ ((torch.eye(4) + U[position]) @ projection.weight).T
        torch.testing.assert_close(projection(inputs), expected)


def test_gradient_reaches_the_factor_that_is_folded() -> None:
    projection = nn.Linear(8, 4, bias=False).double()
    U = torch.randn(1, 4, 4, dtype=torch.float64)
    inputs = torch.randn(3, 8, dtype=torch.float64)
    FoldedProjections([projection]).set(U)
    projection(inputs).sum().backward()
    expected = (torch.eye(4) + U[0]).T @ torch.ones(4, 3).double() @ inputs
    torch.testing.assert_close(projection.weight.grad, expected)


def test_cleared_adjustments_leave_plain_lora() -> None:
    projection = nn.Linear(8, 4, bias=False)
    inputs = torch.randn(3, 8)
    plain = projection(inputs)
    folded = FoldedProjections([projection])
    folded.set(torch.ones(1, 4, 4))
    assert not torch.equal(projection(inputs), plain)
    folded.clear()
    assert torch.equal(projection(inputs), plain)


def test_adjustments_for_another_number_of_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected U for 1 layers, received 2"):
        FoldedProjections([nn.Linear(8, 4)]).set(torch.zeros(2, 4, 4))


def theta_with(**options: object) -> Theta:
    choices = Choices((Knob("bits", (2, 3, 4)), Knob("group", (16, 32))))
    return Theta(choices, LAYERS, 4, ThetaOptions(**options), torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("left_out", "distinct"), [("role", 3), ("block", 2), ("both", 1)])
def test_leaving_out_the_role_or_the_block_adjusts_those_alike(left_out: str, distinct) -> None:
    names = ("role", "block") if left_out == "both" else (left_out,)
    theta = theta_with(**dict.fromkeys(names, False))
    U = theta(codes_of(theta))
    assert len({tuple(matrix.flatten().tolist()) for matrix in U}) == distinct


def test_the_width_of_theta_is_that_of_its_options() -> None:
    theta = theta_with(embedding_dim=3, hidden=5)
    assert theta.norm.normalized_shape == (4 * 3,)  # Two knobs, the role, the block.
    assert theta.hidden.out_features == 5
    assert theta(codes_of(theta)).shape == (len(LAYERS), 4, 4)


def test_a_rank_bounds_the_rank_of_adjustments() -> None:
    theta = theta_with(rank=2)
    torch.nn.init.normal_(theta.output.weight)
    U = theta(codes_of(theta))
    assert U.shape == (len(LAYERS), 4, 4)
    assert set(torch.linalg.matrix_rank(U).tolist()) == {2}


def test_adjustments_of_a_given_rank_start_near_zero_and_still_learn() -> None:
    theta = theta_with(rank=2)
    U = theta(codes_of(theta))
    assert U.abs().max() < 0.05
    U.sum().backward()
    assert theta.output.weight.grad.abs().max() > 1e-2


def test_an_unseen_role_or_block_gets_plain_lora() -> None:
    theta = theta_with()
    layers = (LAYERS[0], LayerSpec("new", "gate", 0, (8, 8)), LayerSpec("deep", "query", 9, (8, 8)))
    chosen = theta.choices.layer_configuration(1)
    U = theta(theta.encode(Configuration({layer.name: chosen for layer in layers}), layers))
    assert U[0].abs().max() > 0
    assert torch.equal(U[1:], torch.zeros(2, 4, 4))


@pytest.mark.parametrize("values", [{"bits": 2}, {"bits": 5, "group": 16}, {"levels": 3}])
def test_knobs_or_values_of_another_quantizer_get_plain_lora(values: dict[str, int]) -> None:
    theta = theta_with()
    configuration = Configuration({layer.name: LayerConfiguration(values) for layer in LAYERS})
    U = theta(theta.encode(configuration, LAYERS))
    assert torch.equal(U, torch.zeros(len(LAYERS), 4, 4))


def test_a_layer_that_the_configuration_lacks_gets_plain_lora() -> None:
    theta = theta_with()
    chosen = theta.choices.layer_configuration(1)
    U = theta(theta.encode(Configuration({LAYERS[0].name: chosen}), LAYERS))
    assert U[0].abs().max() > 0
    assert torch.equal(U[1:], torch.zeros(5, 4, 4))


def test_an_additive_adjustment_adds_u_times_the_basis() -> None:
    projection = nn.Linear(8, 4, bias=False).double()
    basis = random_basis(4, 8, torch.Generator().manual_seed(0)).double()
    U = torch.randn(1, 4, 4, dtype=torch.float64)
    inputs = torch.randn(3, 8, dtype=torch.float64)
    folded = FoldedProjections([projection], [basis])
    folded.set(U)
    expected = inputs @ (projection.weight + U[0] @ basis).T
    torch.testing.assert_close(projection(inputs), expected)
    torch.testing.assert_close(inputs @ folded.weights()[0].T, expected)


@pytest.mark.parametrize(("rank", "features"), [(4, 9), (9, 4)])
def test_a_random_basis_has_orthonormal_rows_or_columns(rank: int, features: int) -> None:
    basis = random_basis(rank, features, torch.Generator().manual_seed(0))
    assert basis.shape == (rank, features)
    product = basis @ basis.T if rank <= features else basis.T @ basis
    torch.testing.assert_close(product, torch.eye(min(rank, features)), atol=1e-5, rtol=0)
