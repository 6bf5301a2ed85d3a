"""Which layers of a model are quantizable, and what each does in its block."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qsearch.errors import InputError
from qsearch.models.tables import embedding_tables, find_tables
from qsearch.space.layers import EMBEDDING, HEAD, LayerSpec

if TYPE_CHECKING:
    from torch import nn

ROLES = {
    # BERT, RoBERTa
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attention_output",
    "intermediate.dense": "intermediate",
    "output.dense": "output",
    # MPNet
    "attention.attn.q": "query",
    "attention.attn.k": "key",
    "attention.attn.v": "value",
    "attention.attn.o": "attention_output",
    # Llama, Qwen2, Qwen3, Mistral, Gemma 3
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.o_proj": "attention_output",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}
"""Role by module path within a block."""


def backbone(model: nn.Module) -> tuple[str, nn.Module]:
    """Return a model's headless part with its attribute name, which is empty without a head."""
    from torch import nn

    prefix = getattr(model, "base_model_prefix", "")
    inner = getattr(model, prefix, None) if prefix else None
    return (prefix, inner) if isinstance(inner, nn.Module) else ("", model)


def discover_layers(model: nn.Module, patterns: Sequence[str] = ("*",)) -> tuple[LayerSpec, ...]:
    """Return the linear layers inside transformer blocks, in module order.

    A block is a member of a module list, and its place there is its index. Poolers and task heads
    are outside blocks, so they are not quantizable; for the token embedding and an output head see
    :func:`discover_tables`. Names are relative to the headless model: the
    same with a task head and without.

    Raises:
        InputError: If the model has no linear layer in a block, or no pattern matches one.
    """
    layers = tuple(_block_layers(backbone(model)[1]))
    if not layers:
        raise InputError(
            f"model {type(model).__name__} has no linear layers inside a list of blocks"
        )
    return matching_layers(layers, patterns)


def discover_tables(model: nn.Module) -> tuple[LayerSpec, ...]:
    """Return what :func:`~qsearch.models.tables.find_tables` finds, named as by discover_layers.

    The embedding's name is relative to the headless model; an output head is outside that, so its
    name is its path.
    """
    prefix, _ = backbone(model)
    return tuple(
        replace(table, name=table.name.removeprefix(f"{prefix}."))
        if prefix and table.role == EMBEDDING
        else table
        for table in find_tables(model)
    )


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


def find_layers(
    model: nn.Module, patterns: Sequence[str] | None = None, embeddings: bool = False
) -> tuple[LayerSpec, ...]:
    """Return the linear layers of any module, by their paths in it, after embeddings if wanted.

    Without patterns, those inside transformer blocks; all, if the module has no list of blocks.
    Embeddings are then the token embedding, and an output head with a weight of its own. With
    patterns, all of both whose path matches one, wherever they are.

    Raises:
        InputError: If there are none.
    """
    layers = linear_layers(model)
    if not layers and not embeddings:
        raise InputError(
            f"model {type(model).__name__} has no linear layers (torch.nn.Linear) to quantize"
        )
    if patterns is None:
        tables = find_tables(model) if embeddings else ()
        blocks = {layer.name for layer in _block_layers(model)}
        inside = [layers[name] for name in layers if name in blocks or not blocks]
        return _own_weights(model, [*tables, *inside])
    if embeddings:
        layers = embedding_tables(model) | layers
    matching = [
        layer
        for name, layer in layers.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if not matching:
        raise InputError(
            f"layers: {list(patterns)} match none of the model's {len(layers)} layers; their"
            f" names are like {list(layers)[:3]}"
        )
    return _own_weights(model, matching)


def linear_layers(model: nn.Module) -> dict[str, LayerSpec]:
    """Return all linear layers of a module by path; one that is in several places, once."""
    from torch import nn

    inside = {layer.name: layer for layer in _block_layers(model)}
    return {
        name: inside.get(name) or _lone_layer(name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def _own_weights(model: nn.Module, layers: Sequence[LayerSpec]) -> tuple[LayerSpec, ...]:
    """Return layers, those of one weight once; refuse weights that are not a layer's own."""
    from torch import nn

    first: dict[int, LayerSpec] = {}
    for layer in layers:
        weight = model.get_submodule(layer.name)._parameters.get("weight")
        if weight is None:
            raise InputError(
                f"layer {layer.name!r} computes its weight, by a parametrization or pruning;"
                " remove that first, or leave the layer out with layers="
            )
        first.setdefault(id(weight), layer)
    for name, module in model.named_modules():
        shared = first.get(id(module._parameters.get("weight")))
        if shared is None or isinstance(module, nn.Linear):
            continue
        if shared.role == EMBEDDING and isinstance(module, nn.Embedding):
            continue
        both = ", or take both with embeddings=True" if isinstance(module, nn.Embedding) else ""
        raise InputError(
            f"layer {shared.name!r} shares its weight with {name!r}, which would be quantized with"
            f" it; leave the layer out with layers={both}"
        )
    return tuple(first.values())


def _lone_layer(path: str, linear: nn.Linear) -> LayerSpec:
    """Return a layer outside transformer blocks; the first number of its path is its block."""
    parts = path.split(".")
    place = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    role = ".".join(part for index, part in enumerate(parts) if index != place) or "linear"
    block = 0 if place is None else int(parts[place])
    return LayerSpec(path, role, block, (linear.out_features, linear.in_features))


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
    """Return the layers' module paths in a model that may have a head around them.

    An output head is not inside the headless model: its name is its path.
    """
    prefix, _ = backbone(model)
    return tuple(
        f"{prefix}.{layer.name}" if prefix and layer.role != HEAD else layer.name
        for layer in layers
    )


def _block_layers(model: nn.Module) -> Iterator[LayerSpec]:
    from torch import nn

    for list_name, blocks in _outermost_lists(model):
        for index, block in enumerate(blocks):
            for path, module in block.named_modules():
                if isinstance(module, nn.Linear):
                    name = ".".join(part for part in (list_name, str(index), path) if part)
                    shape = (module.out_features, module.in_features)
                    yield LayerSpec(name, _role(path), index, shape)


def _role(path: str) -> str:
    """Return the role of a layer by its path in its block; those of tables are not for it."""
    role = ROLES.get(path, path or "linear")
    return f"{role} layer" if role in (EMBEDDING, HEAD) else role


def _outermost_lists(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    from torch import nn

    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, nn.ModuleList):
            yield path, child
        else:
            yield from _outermost_lists(child, f"{path}.")
