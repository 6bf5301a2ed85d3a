"""Tokens a second that configurations are predicted to generate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qsearch.plugins.speed import SpeedTable
from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames.points import row_choices


def tokens_per_second(record: StudyRecord, table: SpeedTable | None) -> npt.NDArray[np.float64]:
    """Return the prediction for each row of ``points_frame``; NaN where there is none."""
    choices = row_choices(record)
    if table is None:
        return np.full(len(choices), np.nan)
    every = record.choices.layer_configurations
    seconds = np.array(
        [[table.layer_seconds(layer, own) for own in every] for layer in record.layers]
    )
    products = seconds[np.arange(len(record.layers)), choices].sum(axis=1)
    speeds: npt.NDArray[np.float64] = 1 / (table.other_generation + products)
    return speeds
