"""The mixed-integer space of configurations that a quantizer spans over a model's layers.

A *code* is a configuration as integers: one row a tied group, one column a knob, each entry the
position of the knob's value (groups × knobs, int64). An *index* is the same in one number a
group: the choice index of its layer configuration (groups, int64). Groups are of the layers that
are searched: a pinned layer has one layer configuration, in all configurations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from qsearch._arrays import Booleans, Floats, Integers
from qsearch.errors import InputError
from qsearch.space.configuration import Choices, Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec, TiedGroup, tied_groups

_ROUNDING = 1e-9


@dataclass(frozen=True)
class ConfigurationSpace:
    """All configurations of a model under a quantizer.

    ``storage_bits`` are bits per weight by choice index, and ``fused_roles`` sets of roles that are
    tied within a block. Layers of the shapes in ``shape_bits`` have the bits there instead, and
    those of the shapes in ``shape_choices`` take the choices there alone, by rising index. Layers
    whose names are in ``pinned`` have the layer configuration there, and count in average bits.
    """

    layers: tuple[LayerSpec, ...]
    choices: Choices
    storage_bits: tuple[float, ...]
    fused_roles: tuple[tuple[str, ...], ...] = ()
    shape_bits: Mapping[tuple[int, int], tuple[float, ...]] = field(
        default_factory=dict, hash=False
    )
    shape_choices: Mapping[tuple[int, int], tuple[int, ...]] = field(
        default_factory=dict, hash=False
    )
    pinned: Mapping[str, LayerConfiguration] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise InputError("a space needs at least one quantizable layer")
        for bits in (self.storage_bits, *self.shape_bits.values()):
            if len(bits) != self.choices.size:
                raise InputError(
                    f"got storage bits of {len(bits)} layer configurations;"
                    f" the quantizer has {self.choices.size}"
                )
        self._require_pinned()
        for group, possible in zip(self.groups, self.possible, strict=True):
            if not possible.any():
                names = [self.layers[member].name for member in group.members]
                raise InputError(f"no layer configuration is one that all of {names} can take")

    def _require_pinned(self) -> None:
        layers = {layer.name: layer for layer in self.layers}
        for name, one in self.pinned.items():
            if name not in layers:
                raise InputError(f"space.fixed: no layer is called {name!r}")
            allowed = self.shape_choices.get(layers[name].shape)
            choice = self.choices.index(one)
            if allowed is not None and choice not in allowed:
                raise InputError(f"space.fixed: {name!r} cannot take {one!r}")
        for group in self._all_groups:
            members = [self.layers[member].name for member in group.members]
            if len({self.pinned.get(name) for name in members}) > 1:
                raise InputError(
                    "space.fixed: tied layers must be pinned together, and alike:"
                    f" {', '.join(members)}"
                )
        if not self.groups:
            raise InputError("space.fixed: every layer is pinned, which leaves nothing to search")

    @cached_property
    def _all_groups(self) -> tuple[TiedGroup, ...]:
        return tied_groups(self.layers, self.fused_roles)

    @cached_property
    def groups(self) -> tuple[TiedGroup, ...]:
        """Searched layers that share a layer configuration; one that is not tied is its own group.

        Pinned layers are in none.
        """
        return tuple(
            group
            for group in self._all_groups
            if self.layers[group.members[0]].name not in self.pinned
        )

    @cached_property
    def searched(self) -> tuple[int, ...]:
        """Positions of the layers that are not pinned."""
        return tuple(
            position for position, layer in enumerate(self.layers) if layer.name not in self.pinned
        )

    @property
    def variables(self) -> int:
        """Number of integer variables; a knob of one value does not count."""
        return len(self.groups) * sum(size > 1 for size in self.choices.sizes)

    @cached_property
    def group_parameters(self) -> Integers:
        """Weights in each group (groups)."""
        return np.array(
            [sum(self.layers[member].parameters for member in g.members) for g in self.groups],
            dtype=np.int64,
        )

    @cached_property
    def parameters(self) -> int:
        """Weights of all layers, those of pinned ones included."""
        return sum(layer.parameters for layer in self.layers)

    @cached_property
    def group_share(self) -> Floats:
        """Share of all weights that each group has (groups); they add to 1 if none is pinned."""
        share: Floats = self.group_parameters / self.parameters
        return share

    @property
    def pinned_bits(self) -> float:
        """What pinned layers add to the average bits of every configuration."""
        return self._all_pinned_bits / self.parameters

    @cached_property
    def _all_pinned_bits(self) -> float:
        bits = 0.0
        for layer in self.layers:
            if layer.name in self.pinned:
                own = self.shape_bits.get(layer.shape, self.storage_bits)
                bits += layer.parameters * own[self.choices.index(self.pinned[layer.name])]
        return bits

    @cached_property
    def group_bits(self) -> Floats:
        """Storage bits per weight (groups × choices)."""
        rows = [self.shape_bits.get(layer.shape, self.storage_bits) for layer in self.layers]
        bits = np.array(rows, dtype=np.float64)
        parameters = np.array([layer.parameters for layer in self.layers], dtype=np.float64)
        members = [list(group.members) for group in self.groups]
        return np.stack([_mean(bits[each], parameters[each]) for each in members])

    @cached_property
    def _nominal_bits(self) -> Floats:
        return np.array(self.storage_bits, dtype=np.float64)

    @cached_property
    def possible(self) -> Booleans:
        """Which choices a group can take: those of all of its layers (groups × choices)."""
        possible = np.ones((len(self.groups), self.choices.size), dtype=bool)
        for row, group in zip(possible, self.groups, strict=True):
            for member in group.members:
                allowed = self.shape_choices.get(self.layers[member].shape)
                if allowed is not None:
                    row &= np.isin(np.arange(len(row)), allowed)
        return possible

    def choices_of_layers(self) -> Iterator[tuple[LayerSpec, LayerConfiguration]]:
        """Yield each layer with each layer configuration that a configuration may give it."""
        every = self.choices.layer_configurations
        for group, possible in zip(self.groups, self.possible, strict=True):
            for member in group.members:
                for choice in np.flatnonzero(possible).tolist():
                    yield self.layers[member], every[choice]
        for layer in self.layers:
            if layer.name in self.pinned:
                yield layer, self.pinned[layer.name]

    @cached_property
    def bits_table(self) -> Floats:
        """Average bits with all searched layers alike, by choice index (choices)."""
        return self._average(_mean(self.group_bits, self.group_parameters.astype(np.float64)))

    def _average(self, searched: Floats) -> Floats:
        """Return average bits of all layers from those of the searched ones."""
        if not self.pinned:
            return searched
        total = searched * float(self.group_parameters.sum()) + self._all_pinned_bits
        averaged: Floats = total / self.parameters
        return averaged

    @cached_property
    def sizes(self) -> Integers:
        """Number of values of each knob (knobs)."""
        return np.array(self.choices.sizes, dtype=np.int64)

    @cached_property
    def _strides(self) -> Integers:
        reversed_products = np.cumprod(np.concatenate([[1], self.sizes[::-1]]))[:-1]
        return reversed_products[::-1].astype(np.int64)

    def to_code(self, index: Integers) -> Integers:
        """Return codes (… × groups × knobs) of choice indices (… × groups)."""
        code: Integers = (index[..., None] // self._strides) % self.sizes
        return code

    def encode(self, configuration: Mapping[str, LayerConfiguration]) -> Integers:
        """Return the choice indices (groups) of a configuration of these layers and knobs."""
        names = {layer.name for layer in self.layers}
        if set(configuration) != names:
            differing = sorted(set(configuration) ^ names)
            raise InputError(f"configuration and model differ in the layers {differing[:5]}")
        index = np.zeros(len(self.groups), dtype=np.int64)
        for position, group in enumerate(self.groups):
            members = [self.layers[member].name for member in group.members]
            first, *others = {configuration[name] for name in members}
            if others:
                raise InputError(f"tied layers must share one layer configuration: {members}")
            index[position] = self.choices.index(first)
        for name, own in self.pinned.items():
            if configuration[name] != own:
                raise InputError(
                    f"layer {name!r} is pinned to {dict(own)}, not {dict(configuration[name])}"
                )
        self._require(index)
        return index

    def decode(self, index: Integers) -> Configuration:
        """Return the configuration with the given choice indices (groups)."""
        self._require(index)
        choices = np.empty(len(self.layers), dtype=np.int64)
        for group, choice in zip(self.groups, index.tolist(), strict=True):
            choices[list(group.members)] = choice
        for position, layer in enumerate(self.layers):
            if layer.name in self.pinned:
                choices[position] = self.choices.index(self.pinned[layer.name])
        return Configuration(
            {
                layer.name: self.choices.layer_configurations[choice]
                for layer, choice in zip(self.layers, choices.tolist(), strict=True)
            }
        )

    def _require(self, index: Integers) -> None:
        if index.shape != (len(self.groups),):
            raise InputError(f"expected {len(self.groups)} choice indices, got shape {index.shape}")
        if index.min() < 0 or index.max() >= self.choices.size:
            raise InputError(f"choice indices must be in [0, {self.choices.size})")
        wrong = np.flatnonzero(~self.possible[np.arange(len(index)), index])
        if len(wrong):
            group = self.groups[wrong[0]]
            names = [self.layers[member].name for member in group.members]
            raise InputError(
                f"{names} cannot take {self.choices.layer_configurations[index[wrong[0]]]!r}"
            )

    def average_bits(self, index: Integers) -> Floats:
        """Return average storage bits per quantized weight (…) of choice indices (… × groups).

        Exact in float64 while the knobs' bits are dyadic rationals, as for powers of two.
        """
        if self.shape_bits:
            bits = self.group_bits.take(index + np.arange(len(self.groups)) * self.choices.size)
        else:
            bits = self._nominal_bits[index]
        total: Floats = bits @ self.group_parameters.astype(np.float64)
        return (total + self._all_pinned_bits) / float(self.parameters)

    @cached_property
    def average_bits_range(self) -> tuple[float, float]:
        """Least and greatest average bits."""
        parameters = self.group_parameters.astype(np.float64)
        least = self.group_bits.min(axis=1, where=self.possible, initial=np.inf)
        greatest = self.group_bits.max(axis=1, where=self.possible, initial=-np.inf)
        ends = (float(self._average(_mean(row, parameters))) for row in (least, greatest))
        return next(ends), next(ends)

    @cached_property
    def neighbour_choices(self) -> tuple[tuple[Integers, ...], ...]:
        """For each group and choice index, the nearest choices in either direction of one knob.

        They are one step away, or more where the group cannot take what is between.
        """
        tables: dict[bytes, tuple[Integers, ...]] = {}
        for possible in self.possible:
            if possible.tobytes() not in tables:
                steps = (self._steps(index, possible) for index in range(self.choices.size))
                tables[possible.tobytes()] = tuple(steps)
        return tuple(tables[possible.tobytes()] for possible in self.possible)

    def _steps(self, index: int, possible: Booleans) -> Integers:
        code, steps = self.to_code(np.array(index)).tolist(), []
        for place, size, stride in zip(code, self.sizes, self._strides, strict=True):
            below = range(place - 1, -1, -1)
            for positions in (below, range(place + 1, size)):
                ahead = (index + int(stride) * (position - place) for position in positions)
                steps += [choice for choice in ahead if possible[choice]][:1]
        return np.array(steps, dtype=np.int64)

    def neighbours(self, index: Integers) -> tuple[Integers, Integers]:
        """Return every step of one knob of one group of a configuration (groups).

        The group that each step moves (steps), and its new choice index (steps).
        """
        table = self.neighbour_choices
        options = [own[choice] for own, choice in zip(table, index.tolist(), strict=True)]
        groups = np.repeat(np.arange(len(options)), [len(option) for option in options])
        return groups, np.concatenate(options)

    def within(self, index: Integers, bits: tuple[float, float]) -> Booleans:
        """Return whether choice indices (… × groups) have average bits in an interval (…)."""
        average = self.average_bits(index)
        inside: Booleans = (average >= bits[0] - _ROUNDING) & (average <= bits[1] + _ROUNDING)
        return inside


def _mean(rows: Floats, weights: Floats) -> Floats:
    """Return the weighted mean of rows, and of equal ones exactly what they are."""
    if (rows == rows[0]).all():
        first: Floats = rows[0]
        return first
    mean: Floats = weights @ rows / weights.sum()
    return mean
