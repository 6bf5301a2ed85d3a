"""How the values of a knob shift along the front."""

from __future__ import annotations

import numpy as np
import pandas as pd

from qsearch.storage.study_record import StudyRecord
from qsearch_reports.frames.layers import knob_places, weight_shares
from qsearch_reports.frames.points import latest_front, row_choices


def marginals_frame(record: StudyRecord, knob: str) -> pd.DataFrame:
    """Return how the quantized weights of each front configuration divide among a knob's values.

    The Pareto front is the overall one of the last finished round, by selection loss; rows are by
    ascending average bits.
    """
    shown = record.choices.knobs[record.choices.names.index(knob)]
    front = latest_front(record)
    indices = row_choices(record)[front.index.to_numpy(dtype=int)]
    places = knob_places(record.choices, indices, knob)
    weights = weight_shares(record.layers)
    shares = np.array([(places == place) @ weights for place in range(len(shown.values))])
    count, size = len(front), len(shown.values)
    return pd.DataFrame(
        {
            "row": np.repeat(front.index.to_numpy(dtype=int), size),
            "trial": np.repeat(front["trial"].to_numpy(dtype=int), size),
            "average_bits": np.repeat(front["average_bits"].to_numpy(dtype=float), size),
            "value": list(shown.values) * count,
            "place": np.tile(np.arange(size), count),
            "share": shares.T.reshape(-1),
        }
    )
