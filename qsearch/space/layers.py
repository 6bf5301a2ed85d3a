"""What the engine knows of a model: its quantizable layers and which of them are tied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qsearch.errors import InputError

FUSED_ROLES: tuple[tuple[str, ...], ...] = (("query", "key", "value"), ("gate", "up"))
"""Roles whose layers inference engines fuse into one matrix within a block."""

EMBEDDING, HEAD = "embedding", "head"
"""Roles of tables: a token embedding, and an output head with a weight of its own."""


@dataclass(frozen=True)
class LayerSpec:
    """One quantizable weight, of a linear layer or an embedding.

    The name is its module path in the model, the role what it does in its block (distinct roles
    have distinct names), the block an index from 0, the shape (output features, input features).
    A table, which is in no block, has block 0 and the shape (vocabulary, width).
    """

    name: str
    role: str
    block: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if self.block < 0:
            raise InputError(f"layer {self.name!r}: block must be 0 or more, not {self.block}")
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise InputError(
                f"layer {self.name!r}: shape must be two positive integers, not {self.shape}"
            )

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    @property
    def is_table(self) -> bool:
        """Whether it is a token embedding or an output head."""
        return self.role in (EMBEDDING, HEAD)


@dataclass(frozen=True)
class TiedGroup:
    """Layers that share one layer configuration: their positions in the model's list of layers."""

    name: str
    members: tuple[int, ...]


def tied_groups(
    layers: Sequence[LayerSpec], fused_roles: Sequence[Sequence[str]] = ()
) -> tuple[TiedGroup, ...]:
    """Group layers that must share a layer configuration, in the order of their first layer.

    ``fused_roles`` are sets of roles that are tied within a block, such as :data:`FUSED_ROLES`.
    """
    names = [layer.name for layer in layers]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"layer names must be distinct; named twice: {twice}")
    fused = [role for roles in fused_roles for role in roles]
    if len(set(fused)) != len(fused):
        raise InputError(f"a role may be tied only once; got {[list(r) for r in fused_roles]}")
    set_of_role = {role: index for index, roles in enumerate(fused_roles) for role in roles}
    members: dict[tuple[object, ...], list[int]] = {}
    for position, layer in enumerate(layers):
        tie = set_of_role.get(layer.role)
        key = (layer.name,) if tie is None else (layer.block, tie)
        members.setdefault(key, []).append(position)
    groups = []
    for positions in members.values():
        first = layers[positions[0]]
        roles = "+".join(layers[position].role for position in positions)
        name = first.name if len(positions) == 1 else f"block.{first.block}.{roles}"
        groups.append(TiedGroup(name, tuple(positions)))
    return tuple(groups)
