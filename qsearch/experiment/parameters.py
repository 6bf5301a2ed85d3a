"""Configurations as parameters of Ax, and the precision that Ax stores."""

from __future__ import annotations

from typing import Any

import numpy as np
from ax.api.configs import ChoiceParameterConfig

from qsearch.space.space import Space

LOSS = "loss"
AVERAGE_BITS = "average_bits"
SECONDS = "seconds"

_STORED_DECIMALS = 10


def ax_parameters(space: Space) -> list[ChoiceParameterConfig]:
    """Return the space as Ax parameters: one ordered choice for each knob of each group."""
    return [
        ChoiceParameterConfig(
            name=name,
            values=list(values),
            parameter_type="int" if isinstance(values[0], int) else "str",
            is_ordered=True,
        )
        for name, values in space.parameter_values().items()
    ]


def stored_precision(values: Any) -> Any:
    """Return figures (a number, an array or a column) as precise as Ax stores them.

    Ax writes ten decimals, and reads them back with an error in the last bit. Rounding what is in
    memory and what was read alike makes a resumed study compute with the same numbers as one that
    never stopped.
    """
    return np.round(np.asarray(values, dtype=np.float64), _STORED_DECIMALS)
