"""What reading quantized weights needs of a quantizer's options: its knobs and their values.

Neither this nor a module ``decoder`` imports more than PyTorch: packed exports are loaded where
nothing is searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from qsearch.errors import InputError
from qsearch.space.configuration import Choices, Knob, KnobValue

Knobs = Mapping[str, tuple[KnobValue, ...]]
"""The values of knobs, in their order."""


class KnobDecoder:
    """Reads weights whose layer configurations are values of knobs.

    Args:
        options: Of the quantizer: lists of values by knob. One that is missing restricts nothing.

    Raises:
        InputError: If an option is unknown, or lists a value that its knob does not have.
    """

    name: str
    KNOBS: ClassVar[Knobs]
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    """Of options that restrict a knob if they are missing."""
    UNREAD: ClassVar[frozenset[str]] = frozenset()
    """Options that matter to quantizing alone."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        allowed = {*self.KNOBS, *self.UNREAD}
        if unknown := options.keys() - allowed:
            raise InputError(
                f"{min(unknown)}: unknown option of the quantizer {self.name!r}; allowed:"
                f" {', '.join(sorted(allowed))}"
            )
        values = self.knob_values({**self.KNOBS, **self.DEFAULTS, **options})
        self._choices = Choices(tuple(Knob(name, values) for name, values in values.items()))

    def knob_values(self, options: Mapping[str, Any]) -> dict[str, tuple[KnobValue, ...]]:
        """Return the values of each knob that the options leave; all options are given."""
        return {name: _listed(name, options[name], own) for name, own in self.KNOBS.items()}

    def choices(self) -> Choices:
        """Return the knobs, restricted as the options say."""
        return self._choices


def _listed(name: str, given: Any, allowed: tuple[KnobValue, ...]) -> tuple[KnobValue, ...]:
    """Return the values of an option in the order of those that are allowed."""
    values = given if isinstance(given, list | tuple) else ()
    if not values or any(type(one) not in (int, str) or one not in allowed for one in values):
        raise InputError(f"{name}: must be a list of some of {list(allowed)}, not {given!r}")
    return tuple(value for value in allowed if value in values)
