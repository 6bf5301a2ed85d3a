"""The shape of a model that transformers has built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qsearch.models.discovery import discover_layers
from qsearch_coalora.models.architectures import ModelShape

if TYPE_CHECKING:
    from torch import nn


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
