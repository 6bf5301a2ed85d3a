"""Knobs that a trainer adds to those of the quantizer, such as the rank of a layer's adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.stored_bytes import stored_bytes
from qsearch.space.configuration import Choices, Knob, KnobValue, LayerConfiguration
from qsearch.space.layers import LayerSpec


@runtime_checkable
class SupportsTrainerKnobs(Protocol):
    """Optional for trainers. With it, a layer configuration has knobs of the trainer's own.

    They follow the quantizer's, and the search chooses their values in the same way. What the
    trainer is given has all knobs; what it gives a quantizer, or an export job, has the quantizer's
    alone (:func:`without_trainer_knobs`).
    """

    def trainer_knobs(self) -> tuple[Knob, ...]:
        """Return the knobs, known from the options alone; none where nothing is searched."""
        ...

    def takes_values(self, layer: LayerSpec, values: Mapping[str, KnobValue]) -> bool:
        """Return whether a layer can have these values of the trainer's knobs."""
        ...

    def added_bits(self, shape: tuple[int, int], values: Mapping[str, KnobValue]) -> float:
        """Return the bits per weight that such values add to a layer (output × input features)."""
        ...


def trainer_knobs(trainer: object) -> tuple[Knob, ...]:
    """Return the knobs that a trainer adds, if any."""
    return trainer.trainer_knobs() if isinstance(trainer, SupportsTrainerKnobs) else ()


def all_choices(quantizer: Quantizer, trainer: object) -> Choices:
    """Return the knobs of both, the quantizer's first."""
    return Choices((*quantizer.choices().knobs, *trainer_knobs(trainer)))


def taken_values(trainer: object, layer: LayerSpec) -> list[LayerConfiguration]:
    """Return the values of a trainer's knobs that a layer can have, in order."""
    if not isinstance(trainer, SupportsTrainerKnobs):
        return []
    every = Choices(trainer.trainer_knobs()).layer_configurations
    return [values for values in every if trainer.takes_values(layer, values)]


def layer_bytes(
    quantizer: Quantizer, trainer: object, shape: tuple[int, int], configuration: LayerConfiguration
) -> int:
    """Return the bytes that a layer takes in a file: its weight, and what a trainer's knobs add."""
    plain = without_trainer_knobs(quantizer.choices().names, configuration)
    nbytes = stored_bytes(quantizer, shape, plain)
    if isinstance(trainer, SupportsTrainerKnobs) and len(plain) < len(configuration):
        nbytes += round(trainer.added_bits(shape, configuration) * shape[0] * shape[1] / 8)
    return nbytes


def without_trainer_knobs(
    names: Sequence[str], configuration: LayerConfiguration
) -> LayerConfiguration:
    """Return a layer configuration with the knobs of a quantizer alone, given their names."""
    if len(configuration) == len(names):
        return configuration
    return LayerConfiguration({name: configuration[name] for name in names})
