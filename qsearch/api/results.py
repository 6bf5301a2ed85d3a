"""Tables of a study's results, for pandas."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from qsearch.storage.study_record import StudyRecord, row_configuration

Metrics = Mapping[int, Mapping[str, float]]
"""Further results of an objective by trial."""


def trials_table(record: StudyRecord, metrics: Metrics) -> pd.DataFrame:
    """Return one row per configuration and round, the task metric under its own name."""
    name = record.metric.name if record.metric else "metric"
    table = record.trials.drop(columns="configuration").rename(
        columns={"metric": name, "metric_standard_error": f"{name}_standard_error"}
    )
    if record.metric is None:
        table = table.drop(columns=["metric", "metric_standard_error"])
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
