"""Configurations as parameters of Ax, and the precision that Ax stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ax.api.configs import ChoiceParameterConfig

from qsearch._arrays import Integers
from qsearch.errors import InputError
from qsearch.space.configuration import Knob, KnobValue
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import TiedGroup

LOSS = "loss"
AVERAGE_BITS = "average_bits"
SECONDS = "seconds"

_STORED_DECIMALS = 10


def ax_parameters(space: ConfigurationSpace) -> list[ChoiceParameterConfig]:
    """Return the space as Ax parameters: one ordered choice for each knob of each group."""
    return [
        ChoiceParameterConfig(
            name=name,
            values=list(values),
            parameter_type="int" if isinstance(values[0], int) else "str",
            is_ordered=True,
        )
        for name, values in parameter_values(space).items()
    ]


def parameter_values(space: ConfigurationSpace) -> dict[str, tuple[KnobValue, ...]]:
    """Return the Ax parameters with their ordered values, without knobs of one value."""
    return {name: knob.values for name, _, knob in _parameters(space)}


def to_parameters(space: ConfigurationSpace, index: Integers) -> dict[str, KnobValue]:
    """Return choice indices (groups) as Ax parameters."""
    configuration = space.decode(index)
    return {
        name: configuration[space.layers[group.members[0]].name][knob.name]
        for name, group, knob in _parameters(space)
    }


def from_parameters(space: ConfigurationSpace, parameters: Mapping[str, Any]) -> Integers:
    """Return the choice indices (groups) of Ax parameters."""
    fixed = {knob.name: knob.values[0] for knob in space.choices.knobs}
    chosen = {group.name: dict(fixed) for group in space.groups}
    for name, group, knob in _parameters(space):
        if name not in parameters:
            raise InputError(f"parameter {name!r} is missing")
        chosen[group.name][knob.name] = parameters[name]
    rows = [space.choices.index(chosen[group.name]) for group in space.groups]
    return np.array(rows, dtype=np.int64)


def _parameters(space: ConfigurationSpace) -> Iterator[tuple[str, TiedGroup, Knob]]:
    """Yield each Ax parameter's name with its group and its knob; knobs of one value are none."""
    for group in space.groups:
        for knob in space.choices.knobs:
            if len(knob.values) > 1:
                yield f"{group.name}:{knob.name}", group, knob


def stored_precision(values: Any) -> Any:
    """Return values (a number, an array or a column) as precise as Ax stores them.

    Ax writes ten decimals, and reads them back with an error in the last bit. Rounding what is in
    memory and what was read alike makes a resumed study compute with the same numbers as one that
    never stopped.
    """
    return np.round(np.asarray(values, dtype=np.float64), _STORED_DECIMALS)
