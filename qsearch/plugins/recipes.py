"""What a format of recipes may do in addition to writing: read one, for a study to start from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import ModelSpec
from qsearch.spec.yaml_text import MAX_BYTES, parse_yaml


@dataclass(frozen=True)
class RecipeText:
    """What a recipe's file holds."""

    text: str

    @cached_property
    def values(self) -> Any:
        """What it is as JSON, or as YAML of a study file's size; None if it is neither."""
        try:
            return json.loads(self.text)
        except (RecursionError, ValueError):
            pass
        try:
            return parse_yaml(self.text, "recipe") if len(self.text) <= MAX_BYTES else None
        except InputError:
            return None


@dataclass(frozen=True)
class RecipeTarget:
    """What a recipe is read for: the layers of a study's model, and its quantizer."""

    model: ModelSpec
    layers: tuple[LayerSpec, ...]
    quantizer: Quantizer


@runtime_checkable
class SupportsRecipe(Protocol):
    """Optional for exporters that write recipes. With it, a study starts from one.

    A recipe is the configuration alone, for another tool to quantize the model by.
    """

    def reads(self, recipe: RecipeText) -> bool:
        """Return whether a file is such a recipe, by its form; errors in it come up later."""
        ...

    def read(self, recipe: RecipeText, target: RecipeTarget) -> Mapping[str, LayerConfiguration]:
        """Return the layer configurations of the target's layers that the recipe quantizes.

        Raises:
            InputError: If the recipe is damaged, or the target's quantizer cannot do what it asks
                for; the message names the layer, the field, its value and what is allowed.
        """
        ...
