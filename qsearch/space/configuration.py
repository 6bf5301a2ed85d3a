"""Knobs, layer configurations and configurations: what a search chooses among."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from qsearch.errors import InputError

KnobValue = int | str
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Knob:
    """One setting of a quantizer, such as ``bits`` or ``block_size``.

    Its values are distinct, and ordered so that neighbours are similar settings.
    """

    name: str
    values: tuple[KnobValue, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError(f"knob {self.name!r} has no values; give at least one")
        if len(set(self.values)) != len(self.values):
            raise InputError(
                f"knob {self.name!r} lists a value twice: {list(self.values)}; values are distinct"
            )

    def index(self, value: object) -> int:
        """Return the position of a value; 2, 2.0 and True are different values."""
        for position, allowed in enumerate(self.values):
            if allowed == value and type(allowed) is type(value):
                return position
        raise InputError(f"knob {self.name!r} has no value {value!r}; allowed: {list(self.values)}")


class _Frozen(Mapping[str, _Value], Generic[_Value]):
    """An immutable, hashable mapping; two are equal when their items are, whatever the order."""

    __slots__ = ("_hash", "_values")

    def __init__(self, values: Mapping[str, _Value]) -> None:
        self._values = dict(values)
        self._hash = hash(frozenset(self._values.items()))

    def __getitem__(self, name: str) -> _Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Frozen):
            return self._values == other._values
        return super().__eq__(other)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._values,)  # Hashes of texts differ by process.


class LayerConfiguration(_Frozen[KnobValue]):
    """How one layer is quantized: an immutable, hashable mapping of knob to value."""

    __slots__ = ()

    def __repr__(self) -> str:
        inside = ", ".join(f"{knob}={value!r}" for knob, value in self._values.items())
        return f"LayerConfiguration({inside})"

    def integer(self, knob: str) -> int:
        """Return a knob's value, which must be an integer."""
        value = self._values.get(knob)
        if not isinstance(value, int):
            raise InputError(f"{self!r}: knob {knob!r} must be an integer, not {value!r}")
        return value

    def text(self, knob: str) -> str:
        """Return a knob's value, which must be a string."""
        value = self._values.get(knob)
        if not isinstance(value, str):
            raise InputError(f"{self!r}: knob {knob!r} must be a string, not {value!r}")
        return value


@dataclass(frozen=True)
class Choices:
    """The knobs of a quantizer; their product is the set of layer configurations.

    A layer configuration has a *choice index*: its place in that product, the last knob
    varying fastest.
    """

    knobs: tuple[Knob, ...]

    def __post_init__(self) -> None:
        names = [knob.name for knob in self.knobs]
        if not names or len(set(names)) != len(names):
            raise InputError(
                f"a quantizer needs one or more knobs with distinct names, not {names}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Knob names, in order."""
        return tuple(knob.name for knob in self.knobs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each knob, in order."""
        return tuple(len(knob.values) for knob in self.knobs)

    @property
    def size(self) -> int:
        """Number of layer configurations."""
        return math.prod(self.sizes)

    @cached_property
    def layer_configurations(self) -> tuple[LayerConfiguration, ...]:
        """Every layer configuration, by choice index."""
        return tuple(self.layer_configuration(index) for index in range(self.size))

    def layer_configuration(self, index: int) -> LayerConfiguration:
        """Return the layer configuration with a choice index."""
        values: dict[str, KnobValue] = {}
        for knob in reversed(self.knobs):
            index, position = divmod(index, len(knob.values))
            values[knob.name] = knob.values[position]
        return LayerConfiguration({name: values[name] for name in self.names})

    def index(self, configuration: Mapping[str, KnobValue]) -> int:
        """Return the choice index of a layer configuration of these knobs."""
        if set(configuration) != set(self.names):
            raise InputError(
                f"layer configuration has knobs {sorted(configuration)};"
                f" the quantizer has {list(self.names)}"
            )
        index = 0
        for knob in self.knobs:
            index = index * len(knob.values) + knob.index(configuration[knob.name])
        return index


class Configuration(_Frozen[LayerConfiguration]):
    """One layer configuration per layer: an immutable, hashable mapping by layer name."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Configuration({len(self)} layers)"

    def to_json(self) -> str:
        """Return ``{layer name: {knob: value}}`` as JSON text."""
        return json.dumps({name: dict(layer) for name, layer in self.items()})

    @classmethod
    def from_json(cls, text: str) -> Configuration:
        """Read what :meth:`to_json` wrote; other text is an InputError."""
        try:
            loaded: Any = json.loads(text)
        except (RecursionError, ValueError) as error:
            raise InputError(f"configuration is not JSON: {error}") from error
        if not isinstance(loaded, dict) or not all(
            isinstance(layer, dict)
            and all(isinstance(value, int | str) for value in layer.values())
            for layer in loaded.values()
        ):
            raise InputError("configuration must be {layer name: {knob: integer or string}}")
        return cls({name: LayerConfiguration(layer) for name, layer in loaded.items()})
