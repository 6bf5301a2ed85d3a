"""The mixed-integer space of configurations that a quantizer spans over a model's layers.

A *code* is a configuration as integers: one row a tied group, one column a knob, each entry the
position of the knob's value (groups × knobs, int64). An *index* is the same in one number a
group: the choice index of its layer configuration (groups, int64).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from qsearch._arrays import Floats, Integers
from qsearch.errors import InputError
from qsearch.space.configuration import Choices, Configuration, KnobValue, LayerConfiguration
from qsearch.space.layers import LayerSpec, TiedGroup, tied_groups

_REDRAWS = 8
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Space:
    """All configurations of a model under a quantizer.

    Args:
        layers: The model's quantizable layers.
        choices: The quantizer's knobs.
        storage_bits: Bits per weight of each layer configuration, by choice index.
        fused_roles: Sets of roles that are tied within a block; none by default.

    Raises:
        InputError: If there is no layer, the bits do not match the choices, or a role is tied
            twice.
    """

    layers: tuple[LayerSpec, ...]
    choices: Choices
    storage_bits: tuple[float, ...]
    fused_roles: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.layers:
            raise InputError("a space needs at least one quantizable layer")
        if len(self.storage_bits) != self.choices.size:
            raise InputError(
                f"got storage bits of {len(self.storage_bits)} layer configurations;"
                f" the quantizer has {self.choices.size}"
            )
        tied_groups(self.layers, self.fused_roles)

    @cached_property
    def groups(self) -> tuple[TiedGroup, ...]:
        """Layers that share a layer configuration; a layer that is not tied is its own group."""
        return tied_groups(self.layers, self.fused_roles)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a code: (groups, knobs)."""
        return len(self.groups), len(self.choices.knobs)

    @property
    def variables(self) -> int:
        """Number of integer variables; a knob of one value is none."""
        return len(self.groups) * sum(size > 1 for size in self.choices.sizes)

    @cached_property
    def group_parameters(self) -> Integers:
        """Weights in each group (groups)."""
        return np.array(
            [sum(self.layers[member].parameters for member in g.members) for g in self.groups],
            dtype=np.int64,
        )

    @cached_property
    def group_share(self) -> Floats:
        """Share of all weights that each group has (groups)."""
        share: Floats = self.group_parameters / self.group_parameters.sum()
        return share

    @cached_property
    def bits_table(self) -> Floats:
        """Storage bits per weight, by choice index (choices)."""
        return np.array(self.storage_bits, dtype=np.float64)

    @cached_property
    def sizes(self) -> Integers:
        """Number of values of each knob (knobs)."""
        return np.array(self.choices.sizes, dtype=np.int64)

    @cached_property
    def _strides(self) -> Integers:
        reversed_products = np.cumprod(np.concatenate([[1], self.sizes[::-1]]))[:-1]
        return reversed_products[::-1].astype(np.int64)

    def to_index(self, code: Integers) -> Integers:
        """Return choice indices (… × groups) of codes (… × groups × knobs)."""
        index: Integers = code @ self._strides
        return index

    def to_code(self, index: Integers) -> Integers:
        """Return codes (… × groups × knobs) of choice indices (… × groups)."""
        code: Integers = (index[..., None] // self._strides) % self.sizes
        return code

    def encode(self, configuration: Mapping[str, LayerConfiguration]) -> Integers:
        """Return the choice indices (groups) of a configuration.

        Raises:
            InputError: If a layer is missing or unknown, a value is not allowed, or tied layers
                differ.
        """
        names = {layer.name for layer in self.layers}
        if set(configuration) != names:
            odd = sorted(set(configuration) ^ names)
            raise InputError(f"configuration and model differ in the layers {odd[:5]}")
        index = np.zeros(len(self.groups), dtype=np.int64)
        for position, group in enumerate(self.groups):
            found = {configuration[self.layers[member].name] for member in group.members}
            if len(found) > 1:
                members = [self.layers[member].name for member in group.members]
                raise InputError(f"tied layers must share one layer configuration: {members}")
            index[position] = self.choices.index(found.pop())
        return index

    def decode(self, index: Integers) -> Configuration:
        """Return the configuration with the given choice indices (groups)."""
        self._require(index)
        chosen: dict[str, LayerConfiguration] = {}
        for group, choice in zip(self.groups, index.tolist(), strict=True):
            layer_configuration = self.choices.layer_configurations[choice]
            for member in group.members:
                chosen[self.layers[member].name] = layer_configuration
        return Configuration({layer.name: chosen[layer.name] for layer in self.layers})

    def _require(self, index: Integers) -> None:
        if index.shape != (len(self.groups),):
            raise InputError(f"expected {len(self.groups)} choice indices, got shape {index.shape}")
        if index.min() < 0 or index.max() >= self.choices.size:
            raise InputError(f"choice indices must be in [0, {self.choices.size})")

    def average_bits(self, index: Integers) -> Floats:
        """Return average storage bits per quantized weight (…) of choice indices (… × groups).

        Exact in float64 while the knobs' bits are dyadic rationals, as for powers of two.
        """
        total: Floats = self.bits_table[index] @ self.group_parameters.astype(np.float64)
        return total / float(self.group_parameters.sum())

    @cached_property
    def average_bits_range(self) -> tuple[float, float]:
        """Least and greatest average bits."""
        return float(self.bits_table.min()), float(self.bits_table.max())

    @cached_property
    def neighbour_choices(self) -> tuple[Integers, ...]:
        """For each choice index, the indices one step away in one knob, in range."""
        table = []
        for index in range(self.choices.size):
            code = self.to_code(np.array(index))
            steps = [
                index + sign * int(self._strides[knob])
                for knob in range(len(self.sizes))
                for sign in (-1, 1)
                if 0 <= code[knob] + sign < self.sizes[knob]
            ]
            table.append(np.array(steps, dtype=np.int64))
        return tuple(table)

    def neighbours(self, index: Integers) -> tuple[Integers, Integers]:
        """Return every in-range move of one knob of one group.

        Args:
            index: Choice indices (groups).

        Returns:
            The moved group and its new choice index, for each move (moves) and (moves).
        """
        options = [self.neighbour_choices[choice] for choice in index.tolist()]
        groups = np.repeat(np.arange(len(options)), [len(option) for option in options])
        return groups, np.concatenate(options)

    def uniform(self, bits: Sequence[float]) -> Integers:
        """Return configurations that quantize every group alike (targets × groups).

        Args:
            bits: Target average bits; each gets the layer configuration nearest to it.
        """
        nearest = [int(np.abs(self.bits_table - target).argmin()) for target in bits]
        return np.repeat(np.array(nearest, dtype=np.int64)[:, None], len(self.groups), axis=1)

    def sample(
        self, count: int, bits: tuple[float, float], generator: np.random.Generator
    ) -> Integers:
        """Draw configurations uniformly over average bits (count × groups).

        Drawing each knob uniformly would crowd the middle of the range, since the average over
        many groups concentrates. Here a target is drawn uniformly; groups are drawn
        independently from the maximum-entropy distribution whose mean is the target; then
        single groups are redrawn while that brings the average nearer to the target. What then
        lies outside the interval is drawn again, a few times: a coarse space may hold nothing
        inside, so the caller must look at the bits.

        Args:
            count: Number of configurations.
            bits: Interval of average bits; its part outside the space is cut off.
            generator: Source of randomness.

        Raises:
            InputError: If the interval does not meet the space's.
        """
        low, high = max(bits[0], self.bits_table.min()), min(bits[1], self.bits_table.max())
        if low > high:
            raise InputError(
                f"average bits [{bits[0]:g}, {bits[1]:g}] lie outside the space's"
                f" [{self.bits_table.min():.4g}, {self.bits_table.max():.4g}]"
            )
        targets = generator.uniform(low, high, size=count)
        drawn = np.zeros((count, len(self.groups)), dtype=np.int64)
        for row, target in enumerate(targets.tolist()):
            drawn[row] = self._sample_at(target, generator)
        for _ in range(_REDRAWS):
            for row in np.flatnonzero(~self.within(drawn, bits)).tolist():
                drawn[row] = self._sample_at(float(generator.uniform(low, high)), generator)
        return drawn

    def within(self, index: Integers, bits: tuple[float, float]) -> npt.NDArray[np.bool_]:
        """Return whether choice indices (… × groups) have average bits in an interval (…)."""
        average = self.average_bits(index)
        inside: npt.NDArray[np.bool_] = (average >= bits[0] - _ROUNDING) & (
            average <= bits[1] + _ROUNDING
        )
        return inside

    def _sample_at(self, target: float, generator: np.random.Generator) -> Integers:
        probabilities = self._tilted(target)
        index = generator.choice(self.choices.size, size=len(self.groups), p=probabilities)
        weights = self.group_share
        error = float(weights @ self.bits_table[index]) - target
        for group in generator.permutation(len(self.groups)):
            redrawn = generator.choice(self.choices.size, size=8, p=probabilities)
            steps = weights[group] * (self.bits_table[redrawn] - self.bits_table[index[group]])
            best = int(np.abs(error + steps).argmin())
            if abs(error + steps[best]) < abs(error):
                error += float(steps[best])
                index[group] = redrawn[best]
        return index.astype(np.int64)

    def _tilted(self, target: float) -> Floats:
        """Return the maximum-entropy distribution over choices with a mean of ``target`` bits."""
        centred = self.bits_table - target
        low, high = -1.0, 1.0

        def weights(tilt: float) -> Floats:
            exponent = tilt * centred
            result: Floats = np.exp(exponent - exponent.max())
            return result

        def mean(tilt: float) -> float:
            return float(weights(tilt) @ centred / weights(tilt).sum())

        while mean(low) > 0 and low > -1e6:
            low *= 2
        while mean(high) < 0 and high < 1e6:
            high *= 2
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if mean(middle) < 0 else (low, middle)
        final = weights((low + high) / 2)
        result: Floats = final / final.sum()
        return result

    @cached_property
    def parameter_names(self) -> tuple[tuple[str, ...], ...]:
        """Names of the Ax parameters (groups × knobs): group name, a colon, knob name."""
        return tuple(
            tuple(f"{group.name}:{knob}" for knob in self.choices.names) for group in self.groups
        )

    def parameter_values(self) -> dict[str, tuple[KnobValue, ...]]:
        """Return the Ax parameters with their ordered values; a knob of one value is none."""
        return {
            name: knob.values
            for names in self.parameter_names
            for name, knob in zip(names, self.choices.knobs, strict=True)
            if len(knob.values) > 1
        }

    def parameters(self, index: Integers) -> dict[str, KnobValue]:
        """Return choice indices (groups) as Ax parameters."""
        self._require(index)
        values: dict[str, KnobValue] = {}
        for names, choice in zip(self.parameter_names, index.tolist(), strict=True):
            layer_configuration = self.choices.layer_configurations[choice]
            for name, knob in zip(names, self.choices.knobs, strict=True):
                if len(knob.values) > 1:
                    values[name] = layer_configuration[knob.name]
        return values

    def from_parameters(self, parameters: Mapping[str, Any]) -> Integers:
        """Return the choice indices (groups) of Ax parameters.

        Raises:
            InputError: If a parameter is missing or has a value that is not allowed.
        """
        index = np.zeros(len(self.groups), dtype=np.int64)
        for position, names in enumerate(self.parameter_names):
            values: dict[str, KnobValue] = {}
            for name, knob in zip(names, self.choices.knobs, strict=True):
                if len(knob.values) == 1:
                    values[knob.name] = knob.values[0]
                elif name in parameters:
                    values[knob.name] = parameters[name]
                else:
                    raise InputError(f"parameter {name!r} is missing")
            index[position] = self.choices.index(values)
        return index
