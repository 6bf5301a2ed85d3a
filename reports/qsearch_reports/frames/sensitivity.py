"""Which layers the search protects: how much each matters, against what it was given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from qsearch_reports.frames.layers import (
    choice_indices,
    default_knob,
    is_numeric,
    knob_places,
    value_amounts,
)
from qsearch_reports.frames.points import latest_front, loss_unit, row_choices
from qsearch_reports.results import StudyResults

_COLUMNS = ["layer", "name", "role", "block", "parameters", "highest_score", "given"]


def sensitivity_frame(
    results: StudyResults,
    configurations: Sequence[str] | None = None,
    knob: str | None = None,
) -> pd.DataFrame:
    """Return how much each layer that is searched matters, and what configurations give it.

    Configurations are JSON texts; without them, they are those on the overall Pareto front of the
    last finished round. Without a knob it is ``bits``, or the first. Scores are under the adapter
    of that round; ``given`` is a mean of places in the knob's order, from 0, if its values are not
    all numbers. Empty without scores of layers, or without a configuration.

    ``attrs`` holds ``knob``, ``unit`` (``values`` or ``places``), ``loss_unit`` (``nats``, or "" if
    it is not known), ``configurations`` (how many) and ``rank_correlation`` (Spearman's, of the
    two; NaN if one of them is constant).
    """
    record, scores = results.record, results.layer_scores
    name = default_knob(record.choices) if knob is None else knob
    shown = record.choices.knobs[record.choices.names.index(name)]
    if scores is None:
        indices = np.empty((0, len(record.layers)), dtype=np.int64)
    elif configurations is None:
        indices = row_choices(record)[latest_front(record).index.to_numpy(dtype=int)]
    else:
        indices = choice_indices(record.layers, record.choices, configurations)
    frame = pd.DataFrame(columns=_COLUMNS)
    is_known = indices.size > 0
    if is_known:
        amounts = value_amounts(shown)[knob_places(record.choices, indices, name)]
        frame = pd.DataFrame(
            {
                "layer": np.arange(len(record.layers)),
                "name": [layer.name for layer in record.layers],
                "role": [layer.role for layer in record.layers],
                "block": [layer.block for layer in record.layers],
                "parameters": [layer.parameters for layer in record.layers],
                "highest_score": np.asarray(scores, dtype=float).max(axis=1),
                "given": amounts.mean(axis=0),
            },
            columns=_COLUMNS,
        )
        # What is pinned was not given by the search.
        frame = frame[~frame["name"].isin(record.pinned)].reset_index(drop=True)
    frame.attrs = {
        "knob": name,
        "loss_unit": loss_unit(record),
        "unit": "values" if is_numeric(shown) else "places",
        "configurations": len(indices) if is_known else 0,
        "rank_correlation": rank_correlation(frame["highest_score"], frame["given"]),
    }
    return frame


def rank_correlation(first: pd.Series, second: pd.Series) -> float:
    """Return Spearman's rank correlation; NaN for fewer than two rows, or a constant."""
    ranks = pd.DataFrame({"first": first.rank(), "second": second.rank()}).dropna()
    if len(ranks) < 2 or (ranks.nunique() < 2).any():
        return math.nan
    return float(np.corrcoef(ranks["first"], ranks["second"])[0, 1])
