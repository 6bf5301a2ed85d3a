"""Configurations as parameters of Ax, and the precision that Ax stores."""

from __future__ import annotations

import pandas as pd
from ax.api.configs import ChoiceParameterConfig

from qsearch.space.space import Space

LOSS = "loss"


AVERAGE_BITS = "average_bits"


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


def stored_precision(frame: pd.DataFrame) -> pd.DataFrame:
    """Return Ax data with its figures as precise as Ax stores them.

    Ax writes ten decimals, and reads them back with an error in the last bit. Rounding what is in
    memory and what was read alike makes a resumed study compute with the same numbers as one that
    never stopped.

    Args:
        frame: Ax's table with the columns ``mean`` and ``sem``.
    """
    return frame.assign(
        mean=frame["mean"].astype(float).round(_STORED_DECIMALS),
        sem=frame["sem"].astype(float).round(_STORED_DECIMALS),
    )
