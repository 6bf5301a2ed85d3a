"""Which linear layers of a model are quantizable, and what each does in its block."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qsearch.errors import InputError
from qsearch.space.layers import LayerSpec
from qsearch_coalora.models.architectures import ROLES, ModelShape

if TYPE_CHECKING:
    from torch import nn


def backbone(model: nn.Module) -> tuple[str, nn.Module]:
    """Return a model's headless part with its attribute name, which is empty without a head."""
    from torch import nn

    prefix = getattr(model, "base_model_prefix", "")
    inner = getattr(model, prefix, None) if prefix else None
    return (prefix, inner) if isinstance(inner, nn.Module) else ("", model)


def discover_layers(model: nn.Module, patterns: Sequence[str] = ("*",)) -> tuple[LayerSpec, ...]:
    """Return the linear layers inside transformer blocks, in module order.

    A block is a member of a module list, and its place there is its index. Embeddings, poolers
    and heads are outside blocks, so they are not quantizable. Names are relative to the headless
    model: the same with a task head and without.

    Raises:
        InputError: If the model has no linear layer in a block, or no pattern matches one.
    """
    layers = tuple(_block_layers(backbone(model)[1]))
    if not layers:
        raise InputError(
            f"model {type(model).__name__} has no linear layers inside a list of blocks"
        )
    return matching_layers(layers, patterns)


def matching_layers(layers: Sequence[LayerSpec], patterns: Sequence[str]) -> tuple[LayerSpec, ...]:
    """Return the layers whose name matches a pattern; InputError if there is none."""
    matching = tuple(
        layer
        for layer in layers
        if any(fnmatch.fnmatchcase(layer.name, pattern) for pattern in patterns)
    )
    if not matching:
        examples = [layer.name for layer in layers[:3]]
        raise InputError(
            f"model.layers {list(patterns)} match none of the model's {len(layers)} layers;"
            f" their names are like {examples}"
        )
    return matching


def shape_of(model: nn.Module) -> ModelShape:
    """Return the shape of a model, which may be on the meta device."""
    from torch import nn

    return ModelShape(
        discover_layers(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        embedded=sum(
            module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding)
        ),
        positions=position_limit(model),
    )


def position_limit(model: nn.Module) -> int | None:
    """Return the most tokens that a model can read at once, or None if it does not say.

    RoBERTa and its kin number positions from after the padding's, so they read fewer tokens than
    they have position embeddings; the embedding's padding index tells them apart.
    """
    from torch import nn

    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    skipped = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "position_embeddings"
        and isinstance(module, nn.Embedding)
        and module.padding_idx is not None
    ]
    return positions - max(skipped, default=0)


def require_same_layers(expected: Sequence[LayerSpec], loaded: Sequence[LayerSpec]) -> None:
    """Raise InputError unless a loaded model has the layers that its configuration has."""
    shapes, own = ({layer.name: layer.shape for layer in layers} for layers in (expected, loaded))
    for name in (*shapes, *own):
        if shapes.get(name) != own.get(name):
            raise InputError(
                f"layer {name!r} has shape {shapes.get(name, 'none')} by the model's configuration,"
                f" but {own.get(name, 'none')} in the loaded weights; correct model.config"
            )


def full_layer_names(model: nn.Module, layers: Sequence[LayerSpec]) -> tuple[str, ...]:
    """Return the layers' module paths in a model that may have a task head around them."""
    prefix, _ = backbone(model)
    return tuple(f"{prefix}.{layer.name}" if prefix else layer.name for layer in layers)


def _block_layers(model: nn.Module) -> Iterator[LayerSpec]:
    from torch import nn

    for list_name, blocks in _outermost_lists(model):
        for index, block in enumerate(blocks):
            for path, module in block.named_modules():
                if isinstance(module, nn.Linear):
                    name = ".".join(part for part in (list_name, str(index), path) if part)
                    shape = (module.out_features, module.in_features)
                    yield LayerSpec(name, ROLES.get(path, path or "linear"), index, shape)


def _outermost_lists(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    from torch import nn

    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList):
            yield path, child
        else:
            yield from _outermost_lists(child, f"{path}.")
