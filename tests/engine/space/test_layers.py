"""Layer specifications and tied groups."""

from __future__ import annotations

import pytest

from qsearch.errors import InputError
from qsearch.space.layers import FUSED_ROLES, LayerSpec, tied_groups
from tests.engine.fake_study import make_layers


@pytest.mark.parametrize(
    ("block", "shape", "said"),
    [(-1, (2, 2), "block must be 0 or more"), (0, (0, 2), "shape"), (0, (2,), "shape")],
)
def test_impossible_layers_are_refused(block: int, shape: tuple[int, int], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        LayerSpec("lin", "query", block, shape)
    assert "'lin'" in str(caught.value)


@pytest.mark.parametrize("role", ["embedding", "head", "query"])
def test_a_table_is_an_embedding_or_an_output_head(role: str) -> None:
    assert LayerSpec("layer", role, 0, (2, 2)).is_table == (role != "query")


def test_nothing_is_tied_unless_asked() -> None:
    layers = make_layers(2)
    groups = tied_groups(layers)
    assert [group.name for group in groups] == [layer.name for layer in layers]
    assert [group.members for group in groups] == [(i,) for i in range(len(layers))]


def test_fused_roles_are_tied_within_their_block() -> None:
    groups = tied_groups(make_layers(2), FUSED_ROLES)
    assert [(group.name, group.members) for group in groups] == [
        ("block.0.query+key+value", (0, 1, 2)),
        ("layers.0.attention_output", (3,)),
        ("block.0.gate+up", (4, 5)),
        ("layers.0.down", (6,)),
        ("block.1.query+key+value", (7, 8, 9)),
        ("layers.1.attention_output", (10,)),
        ("block.1.gate+up", (11, 12)),
        ("layers.1.down", (13,)),
    ]


def test_a_fused_role_that_is_alone_keeps_its_layers_name() -> None:
    (group,) = tied_groups([LayerSpec("only.query", "query", 0, (2, 2))], FUSED_ROLES)
    assert group.name == "only.query"


def test_layer_named_twice_is_refused() -> None:
    layer = LayerSpec("same", "query", 0, (2, 2))
    with pytest.raises(InputError, match=r"named twice: \['same'\]"):
        tied_groups([layer, layer])
