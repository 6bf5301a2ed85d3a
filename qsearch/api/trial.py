"""A trial of a study, as users see it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from qsearch._sizes import readable_size
from qsearch.api.quantization import QuantizerConfiguration
from qsearch.plugins.protocols import Quantizer
from qsearch.spec.sections import PluginSpec
from qsearch.storage.study_record import row_bytes, row_configuration


@dataclass(frozen=True)
class Trial:
    """A configuration that a study tries, with what is known of it.

    Args:
        loss: As it was observed; None before its result, and after a failure.
        estimated_loss: On new data, by the surrogate; None where sampling noise is not modelled.
        metrics: Further results by name.
        file_bytes: Of the weight files with all that ships; None where the study does not know.

    >>> import qsearch
    >>> qsearch.Trial(3, configuration, average_bits=3.25)
    Trial(3: 3.2500 average bits)
    >>> qsearch.Trial(3, configuration, average_bits=3.25, loss=0.5)
    Trial(3: 3.2500 average bits, loss 0.5)
    >>> qsearch.Trial(3, configuration, average_bits=3.25, file_bytes=60_000_000)
    Trial(3: 3.2500 average bits, 60.0 MB)
    """

    number: int
    configuration: QuantizerConfiguration
    average_bits: float
    loss: float | None = None
    standard_error: float | None = None
    estimated_loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    file_bytes: int | None = None

    def __repr__(self) -> str:
        """Say what it is in one line, without its layers."""
        size = "" if self.file_bytes is None else f", {readable_size(self.file_bytes)}"
        loss = "" if self.loss is None else f", loss {self.loss:.6g}"
        if self.estimated_loss is not None:
            loss += f", estimated loss {self.estimated_loss:.6g}"
        return f"Trial({self.number}: {self.average_bits:.4f} average bits{size}{loss})"


def trial_of_row(
    row: pd.Series, quantizer: Quantizer | PluginSpec, metrics: Mapping[str, float]
) -> Trial:
    """Return the trial of a completed row of ``trials.parquet``."""
    estimated = float(row["estimated_loss"])
    return Trial(
        number=int(row["trial"]),
        configuration=QuantizerConfiguration(row_configuration(row), quantizer),
        average_bits=float(row["average_bits"]),
        loss=float(row["loss"]),
        standard_error=float(row["standard_error"]),
        estimated_loss=None if math.isnan(estimated) else estimated,
        metrics=metrics,
        file_bytes=row_bytes(row),
    )
