"""How fast an engine runs configurations: a sum over layers, measured once a machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from qsearch.space.configuration import Configuration, KnobValue, LayerConfiguration
from qsearch.space.layers import LayerSpec

SpeedProgress = Callable[[str], None]
"""Called with what is measured next."""


@dataclass(frozen=True)
class ProductSpeed:
    """How long the product of a layer's weight takes.

    Args:
        shape: Of the weight (output × input features).
        configuration: The layer configuration, by knob.
        type: What the engine calls the type of such weights.
        generation: Nanoseconds a weight, with one token.
        prompt: Nanoseconds a weight and token, with the tokens of a prompt at once; NaN where
            products are of the last token alone.
    """

    shape: tuple[int, int]
    configuration: Mapping[str, KnobValue]
    type: str
    generation: float
    prompt: float


@dataclass(frozen=True)
class SpeedCheck:
    """Measured tokens a second of a configuration (as JSON), to compare with the predicted ones."""

    configuration: str
    generation: float
    prompt: float


@dataclass(frozen=True)
class SpeedConditions:
    """What a speed is of.

    Args:
        version: Of the engine.
        machine: The processor, and what of it computes.
        prompt_tokens: Length of the prompt, after which tokens are generated.
    """

    engine: str
    version: str
    machine: str
    threads: int
    prompt_tokens: int


@dataclass(frozen=True)
class SpeedTable:
    """Seconds of a token, as a sum over layers.

    Args:
        other_generation: Seconds of a token for all but the products of the study's layers.
        other_prompt: The same of a prompt's token.
        looked_up: Layers whose rows are looked up, which takes no time to speak of.
        of_last: Layers that compute with the last token of a prompt alone: output heads.
        checks: Files that ``other_generation`` and ``other_prompt`` were measured with.
    """

    conditions: SpeedConditions
    products: tuple[ProductSpeed, ...]
    other_generation: float
    other_prompt: float
    looked_up: tuple[str, ...] = ()
    of_last: tuple[str, ...] = ()
    checks: tuple[SpeedCheck, ...] = ()

    def generation(self, layers: Sequence[LayerSpec], configuration: Configuration) -> float:
        """Return the tokens that a configuration generates a second.

        NaN if the product of a layer was not measured, such as of a type that the engine lacks.
        """
        products = (self.layer_seconds(layer, configuration[layer.name]) for layer in layers)
        return 1 / (self.other_generation + sum(products))

    def layer_seconds(self, layer: LayerSpec, own: LayerConfiguration) -> float:
        """Return the seconds that a layer adds to each token that is generated, or NaN."""
        if layer.name in self.looked_up:
            return 0.0
        row = self._by_layer.get((layer.shape, own))
        return math.nan if row is None else layer.parameters * 1e-9 * row.generation

    def prompt(self, layers: Sequence[LayerSpec], configuration: Configuration) -> float:
        """Return the tokens of a prompt that a configuration reads a second, or NaN."""
        seconds = self.other_prompt
        for layer in layers:
            own = configuration[layer.name]
            if layer.name in self.of_last:
                seconds += self.layer_seconds(layer, own) / self.conditions.prompt_tokens
            elif layer.name not in self.looked_up:
                row = self._by_layer.get((layer.shape, own))
                nanoseconds = math.nan if row is None else row.prompt
                seconds += layer.parameters * 1e-9 * nanoseconds
        return 1 / seconds

    def errors(self, layers: Sequence[LayerSpec]) -> tuple[float, float]:
        """Return the greatest shares by which predictions of checked files are off.

        They are of generating, and of reading a prompt; zero where nothing was checked.
        """
        shares = [(0.0, 0.0)]
        for check in self.checks:
            configuration = Configuration.from_json(check.configuration)
            generation = self.generation(layers, configuration)
            prompt = self.prompt(layers, configuration)
            shares.append((abs(generation / check.generation - 1), abs(prompt / check.prompt - 1)))
        first, second = zip(*shares, strict=True)
        return max(first), max(second)

    @cached_property
    def _by_layer(self) -> dict[tuple[tuple[int, int], LayerConfiguration], ProductSpeed]:
        return {(row.shape, LayerConfiguration(row.configuration)): row for row in self.products}


@runtime_checkable
class SupportsSpeed(Protocol):
    """Optional for trainers. With it, configurations can be picked by tokens a second."""

    def speed_conditions(self, threads: int) -> SpeedConditions:
        """Return what a speed is of that is measured here and now.

        Raises:
            InputError: If the engine is not installed, or does not run the study's configurations.
        """
        ...

    def measure_speed(
        self,
        conditions: SpeedConditions,
        checked: Sequence[Configuration],
        known: Sequence[ProductSpeed] = (),
        show: SpeedProgress = lambda what: None,
    ) -> SpeedTable:
        """Measure all products that configurations consist of, and the whole of some of them.

        Products that are known are not measured. The state is as it was loaded.
        """
        ...
