"""How far a quantizer may be off what the kit expects, and exemptions for one that must be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from qsearch.space.configuration import Choices, LayerConfiguration

TOLERANCES: Mapping[str, float] = {
    "test_the_error_does_not_depend_on_the_weights_magnitude": 0.25,
    "test_half_precision_weights_are_taken": 0.25,
    "test_it_works_on_a_gpu": 0.25,
    "test_zeros_stay_zeros": 0.0,
}
"""By which part of the expected error the error may differ, by check; for a weight of zeros, by
which part of :data:`~qsearch.testing.samples.TYPICAL` what comes back may differ from zero. All are
parts: a small number added to a bound would hide that the error doubles at 8 bits."""


@dataclass(frozen=True)
class Allowance:
    """An exemption: a check's tolerance for a quantizer that truly has a floor, and why.

    Args:
        check: The check, one of :data:`TOLERANCES`.
        tolerance: What takes the place of the kit's own tolerance; more than that.
        reason: Why the quantizer cannot do better, for those who read its tests.
        where: Values of knobs: the exemption is for the layer configurations that have them, such
            as ``{"bits": 8}``. All others stay bound by the kit's own tolerance. Empty is for all.
            A check fails if no layer configuration of the quantizer has these values.

    Raises:
        ValueError: If the check has no tolerance, the tolerance allows nothing, or there is no
            reason.
    """

    check: str
    tolerance: float
    reason: str
    where: Mapping[str, int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.check not in TOLERANCES:
            raise ValueError(f"check: expected one of {sorted(TOLERANCES)}, found {self.check!r}")
        own = TOLERANCES[self.check]
        if not own < self.tolerance < math.inf:
            raise ValueError(
                f"tolerance of {self.check}: expected more than the kit's own, {own}, and finite,"
                f" found {self.tolerance}"
            )
        if not self.reason.strip():
            raise ValueError(f"reason of {self.check}: expected text, found {self.reason!r}")

    def fits(self, choices: Choices) -> bool:
        """Return whether some layer configuration has the knobs' values."""
        knobs = {knob.name: knob.values for knob in choices.knobs}
        return all(value in knobs.get(name, ()) for name, value in self.where.items())

    def is_for(self, check: str, chosen: LayerConfiguration) -> bool:
        """Return whether this is the check, and the layer configuration has the knobs' values."""
        values = dict(chosen)
        return self.check == check and self.where.items() <= values.items()
