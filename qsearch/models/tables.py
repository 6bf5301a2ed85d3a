"""Token embeddings and output heads: tables (vocabulary × width) outside transformer blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsearch.errors import InputError
from qsearch.space.layers import EMBEDDING, HEAD, LayerSpec

if TYPE_CHECKING:
    from torch import nn


def find_tables(model: nn.Module) -> tuple[LayerSpec, ...]:
    """Return a model's token embedding and its output head, if that has a weight of its own.

    A head that is tied to the embedding is the same layer. Tables of positions and token types are
    small, and not among them; nor is the head of a classifier, which is trained.

    Raises:
        InputError: If the model has no token embedding.
    """
    embedding = token_embedding(model)
    if embedding is None:
        raise InputError(
            f"model {type(model).__name__} has no token embedding (torch.nn.Embedding), which"
            " embeddings: true is for; leave it false"
        )
    name, table = embedding
    tables = [_table_spec(name, EMBEDDING, table)]
    head = output_head(model)
    if head is not None and head[1].weight is not table.weight:
        tables.append(_table_spec(head[0], HEAD, head[1]))
    return tuple(tables)


def embedding_tables(model: nn.Module) -> dict[str, LayerSpec]:
    """Return all embeddings of a module by path, those of positions too."""
    from torch import nn

    return {
        name: _table_spec(name, EMBEDDING, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    }


def token_embedding(model: nn.Module) -> tuple[str, nn.Embedding] | None:
    """Return a model's token embedding with its path, or None if it has none.

    It is the one that a model of transformers says, and the largest one of any other.
    """
    from torch import nn

    tables = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Embedding)
    ]
    own = _asked(model, "get_input_embeddings")
    if own is None:
        # The first of those that are equally large.
        return max(tables, key=lambda item: item[1].weight.numel(), default=None)
    return next(((name, module) for name, module in tables if module is own), None)


def output_head(model: nn.Module) -> tuple[str, nn.Linear] | None:
    """Return the layer that a model of transformers predicts tokens with, and its path."""
    from torch import nn

    own = _asked(model, "get_output_embeddings")
    if not isinstance(own, nn.Linear):
        return None
    return next((name, own) for name, module in model.named_modules() if module is own)


def embedding_scale(embedding: nn.Embedding) -> float | None:
    """Return what an embedding multiplies its rows by; None if it computes something else.

    Classes of transformers that multiply, such as Gemma's, have the factor as an attribute.
    """
    from torch import nn

    if type(embedding).forward is nn.Embedding.forward and embedding.max_norm is None:
        return 1.0
    for name in ("scalar_embed_scale", "embed_scale"):
        scale = getattr(embedding, name, None)
        if isinstance(scale, int | float):
            return float(scale)
    return None


def _table_spec(name: str, role: str, module: nn.Embedding | nn.Linear) -> LayerSpec:
    rows, width = module.weight.shape
    return LayerSpec(name, role, 0, (rows, width))


def _asked(model: Any, method: str) -> Any:
    """Return what a method of transformers' models returns; None where it is of no use."""
    try:
        return getattr(model, method)()
    except (AttributeError, NotImplementedError):
        return None
