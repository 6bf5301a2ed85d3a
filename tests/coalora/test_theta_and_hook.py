from __future__ import annotations

import pytest
import torch
from qsearch_coalora.hook import AdjustmentHooks
from qsearch_coalora.theta import Theta, ThetaOptions
from torch import nn

from qsearch.configuration import Choices, Configuration, Knob
from qsearch.layers import LayerSpec

LAYERS = tuple(
    LayerSpec(f"blocks.{block}.{role}", role, block, (8, 8))
    for block in range(3)
    for role in ("query", "output")
)


def make_theta(knobs: int = 5, rank: int = 4) -> Theta:
    choices = Choices(tuple(Knob(f"knob{index}", (1, 2, 3)) for index in range(knobs)))
    return Theta(choices, LAYERS, rank, ThetaOptions(), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("knobs", [1, 2, 5])
def test_theta_serves_any_number_of_knobs(knobs: int) -> None:
    theta = make_theta(knobs)
    U = theta(torch.zeros(len(LAYERS), knobs, dtype=torch.long))
    assert U.shape == (len(LAYERS), 4, 4)
    assert theta.norm.normalized_shape == (8 * (knobs + 2),)


def test_five_knobs_give_the_papers_width_of_56() -> None:
    assert make_theta(5).hidden.in_features == 56
    assert make_theta(5).hidden.out_features == 128


def test_adjustments_start_near_zero() -> None:
    U = make_theta()(torch.ones(len(LAYERS), 5, dtype=torch.long))
    assert U.abs().max() < 0.05


def test_adjustments_depend_on_knob_role_and_block() -> None:
    theta = make_theta()
    codes = torch.zeros(len(LAYERS), 5, dtype=torch.long)
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
    codes = theta.encode(configuration)
    assert codes.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_codes_of_another_shape_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(6, 5\).*\(6, 4\)"):
        make_theta()(torch.zeros(6, 4, dtype=torch.long))


def test_gradient_reaches_theta_through_the_hook() -> None:
    theta = make_theta()
    projections = [nn.Linear(8, 4, bias=False) for _ in LAYERS]
    hooks = AdjustmentHooks(projections)
    hooks.set(theta(torch.zeros(len(LAYERS), 5, dtype=torch.long)))
    inputs = torch.randn(2, 8)
    sum(projection(inputs).square().sum() for projection in projections).backward()
    assert all(parameter.grad is not None for parameter in theta.parameters())
    assert theta.output.weight.grad.abs().sum() > 0


def test_zero_adjustments_change_nothing_at_all() -> None:
    projection = nn.Linear(8, 4, bias=False)
    inputs = torch.randn(3, 8)
    plain = projection(inputs)
    hooks = AdjustmentHooks([projection])
    assert torch.equal(projection(inputs), plain)
    hooks.set(torch.zeros(1, 4, 4))
    assert torch.equal(projection(inputs), plain)


def test_an_adjustment_multiplies_i_plus_u_from_the_left() -> None:
    projection = nn.Linear(8, 4, bias=False).double()
    U = torch.randn(1, 4, 4, dtype=torch.float64)
    inputs = torch.randn(3, 8, dtype=torch.float64)
    hooks = AdjustmentHooks([projection])
    hooks.set(U)
    expected = inputs @ ((torch.eye(4) + U[0]) @ projection.weight).T
    torch.testing.assert_close(projection(inputs), expected)


def test_cleared_and_removed_hooks_leave_plain_lora() -> None:
    projection = nn.Linear(8, 4, bias=False)
    inputs = torch.randn(3, 8)
    plain = projection(inputs)
    hooks = AdjustmentHooks([projection])
    hooks.set(torch.ones(1, 4, 4))
    assert not torch.equal(projection(inputs), plain)
    hooks.clear()
    assert torch.equal(projection(inputs), plain)
    hooks.set(torch.ones(1, 4, 4))
    hooks.remove()
    assert torch.equal(projection(inputs), plain)


def test_adjustments_for_another_number_of_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected U for 1 layers, received 2"):
        AdjustmentHooks([nn.Linear(8, 4)]).set(torch.zeros(2, 4, 4))
