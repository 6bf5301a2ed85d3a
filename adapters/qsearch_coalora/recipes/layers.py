"""The layers of a recipe: what a job quantizes and leaves in float, and what they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.recipes import RecipeTarget
from qsearch.space.layers import EMBEDDING, LayerSpec

if TYPE_CHECKING:
    from torch import Tensor


def float_weights(job: ExportJob) -> dict[str, Tensor]:
    """Return the matrices that a job does not quantize, by module path, in the model's order."""
    quantized = set(job.paths)
    weights = {
        name.removesuffix(".weight"): tensor
        for name, tensor in job.state().items()
        if name.endswith(".weight") and tensor.dim() == 2
    }
    return {path: tensor for path, tensor in weights.items() if path not in quantized}


def float_linears(job: ExportJob) -> list[str]:
    """Return the paths of linear layers inside blocks that a job leaves in float.

    A path in a block has the block's number in it.
    """
    from torch import nn

    return [
        path
        for path in float_weights(job)
        if any(part.isdigit() for part in path.split("."))
        and not isinstance(job.module.get_submodule(path), nn.Embedding)
    ]


def module_class(layer: LayerSpec) -> str:
    """Return the name of the class of PyTorch that a layer's module has."""
    return "Embedding" if layer.role == EMBEDDING else "Linear"


def layer_paths(target: RecipeTarget, text: str) -> dict[str, str]:
    """Return what a recipe calls each layer: its path with a head around the model, or without.

    Without, where the recipe names layers so. The model is not loaded.
    """
    from qsearch_coalora.models.loading import headed_paths, load_config

    config, _ = load_config(target.model)
    prefix, paths = headed_paths(config, target.model, target.layers)
    plain = text.replace("\\", "")  # Of regular expressions.
    if prefix not in plain and any(one.name in plain for one in target.layers):
        return {layer.name: layer.name for layer in target.layers}
    return paths
