"""Tables of a study's results, for pandas."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from qsearch.storage.study_record import StudyRecord, row_configuration

Metrics = Mapping[int, Mapping[str, float]]
"""Further results of an objective by trial."""


def trials_table(record: StudyRecord, metrics: Metrics) -> pd.DataFrame:
    """Return one row per configuration and round, with all metrics under their own names."""
    table = record.trials.drop(columns="configuration")
    names = sorted({name for values in metrics.values() for name in values} - set(table))
    for name in names:
        table[name] = [metrics.get(int(number), {}).get(name) for number in table["trial"]]
    return table


def configurations_table(record: StudyRecord) -> pd.DataFrame:
    """Return one row per trial, layer and knob: ``trial, layer, role, block, knob, value``."""
    rows = [
        (int(row["trial"]), layer.name, layer.role, layer.block, knob, value)
        for _, row in record.trials.drop_duplicates("trial").sort_values("trial").iterrows()
        for configuration in [row_configuration(row)]
        for layer in record.layers
        for knob, value in configuration[layer.name].items()
    ]
    return pd.DataFrame(rows, columns=["trial", "layer", "role", "block", "knob", "value"])
