"""A study's trials as the rows of ``trials.parquet``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from qsearch._arrays import Booleans, Floats, Integers
from qsearch.experiment.trials import Trials
from qsearch.plugins.evaluation import Evaluation, MetricValue
from qsearch.plugins.trial_columns import TRIAL_COLUMNS, metric_columns
from qsearch.search.pareto import segment_of, segmented_front
from qsearch.storage.study_record import empty_trials, selection_loss

ModelledLosses = Mapping[int, tuple[float, float]]
"""Mean and standard deviation of a loss by trial, nats, as the surrogate has them."""

_UNKNOWN = MetricValue(math.nan)
_NONE = Evaluation(math.nan, math.nan, {}, math.nan)


def trial_table(
    trials: Trials,
    training_sets: Sequence[Sequence[int]],
    estimated: Sequence[ModelledLosses],
    predicted: Sequence[ModelledLosses],
    edges: Floats,
    objective: str = "loss",
    file_bytes: Callable[[Integers], Integers] | None = None,
) -> pd.DataFrame:
    """Return one row per configuration and round, in order of round and trial.

    By round are: the trials that it has trained on, what it estimates of its trials, and what its
    search predicted of its candidates. ``edges`` are those of the segments (segments + 1), and
    the objective is what :func:`selection_loss` takes. ``file_bytes`` gives the bytes of choice
    indices (… × groups), if they are known.
    """
    first_seen: dict[int, int] = {}
    for round, members in enumerate(training_sets, start=1):
        for number in members:
            first_seen.setdefault(number, round)

    def row(number: int, round: int, evaluation: Evaluation, reason: str) -> dict[str, object]:
        unknown = (math.nan, math.nan)
        modelled = [
            by_round[round - 1].get(number, unknown)
            if round <= len(by_round) and evaluation is not _NONE
            else unknown
            for by_round in (estimated, predicted)
        ]
        return {
            "trial": number,
            "round": round,
            "method": trials.method(number),
            "average_bits": trials.average_bits(number),
            "bytes": float(file_bytes(trials.index(number))) if file_bytes else math.nan,
            "seen": first_seen.get(number, round + 1) <= round,
            "configuration": trials.configuration_text(number),
            "loss": evaluation.loss,
            "standard_error": evaluation.standard_error,
            "seconds": evaluation.seconds,
            **metric_cells(trials.metrics, evaluation),
            "status": "failed" if evaluation is _NONE else "completed",
            "reason": reason,
            "estimated_loss": modelled[0][0],
            "estimated_loss_std": modelled[0][1],
            "predicted_loss": modelled[1][0],
            "predicted_loss_std": modelled[1][1],
        }

    rows = [
        row(number, round, evaluation, "")
        for round in trials.rounds()
        for number, evaluation in trials.evaluated_in(round).items()
    ]
    rows += [
        row(number, round, _NONE, reason) for number, (round, reason) in trials.failures().items()
    ]
    if not rows:
        return empty_trials(trials.metrics)
    table = pd.DataFrame(rows).sort_values(["round", "trial"], ignore_index=True)
    table["segment"] = segment_of(table["average_bits"].to_numpy(), edges)
    table["on_front"] = False
    completed = table[table["status"] == "completed"]
    for _, rows_of_round in completed.groupby("round"):
        table.loc[rows_of_round.index, "on_front"] = selection_front(
            rows_of_round, edges, objective
        )
    return table[[*TRIAL_COLUMNS, *metric_columns(trials.metrics)]]


def selection_front(trials: pd.DataFrame, edges: Floats, objective: str = "loss") -> Booleans:
    """Return which completed rows of one round are on its segmented front (rows)."""
    by = selection_loss(trials, objective)
    return segmented_front(np.column_stack([by, trials["average_bits"]]), edges)


def metric_cells(names: Sequence[str], evaluation: Evaluation) -> dict[str, float]:
    """Return the cells of metrics by column, NaN where a metric is not known."""
    values = [evaluation.metrics.get(name, _UNKNOWN) for name in names]
    cells = [cell for metric in values for cell in (metric.value, metric.standard_error)]
    return dict(zip(metric_columns(names), cells, strict=True))
