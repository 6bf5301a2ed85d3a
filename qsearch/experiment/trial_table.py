"""A study's trials as the rows of ``trials.parquet``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from qsearch._arrays import Booleans, Floats, Integers
from qsearch.experiment.trials import Trials
from qsearch.plugins.evaluation import Evaluation
from qsearch.search.pareto import segment_of, segmented_front
from qsearch.storage.study_record import TRIAL_COLUMNS, empty_trials, selection_loss

ModelledLosses = Mapping[int, tuple[float, float]]
"""Mean and standard deviation of a loss by trial, nats, as the surrogate has them."""

_NONE = Evaluation(math.nan, math.nan, math.nan, math.nan, math.nan)


def trial_table(
    trials: Trials,
    training_sets: Sequence[Sequence[int]],
    estimated: Sequence[ModelledLosses],
    predicted: Sequence[ModelledLosses],
    edges: Floats,
    file_bytes: Callable[[Integers], Integers] | None = None,
) -> pd.DataFrame:
    """Return one row per configuration and round, in order of round and trial.

    By round are: the trials that it has trained on, what it estimates of its trials, and what its
    search predicted of its candidates. ``edges`` are those of the segments (segments + 1), and
    ``file_bytes`` gives the bytes of choice indices (… × groups), if they are known.
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
            **asdict(evaluation),
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
        return empty_trials()
    table = pd.DataFrame(rows).sort_values(["round", "trial"], ignore_index=True)
    table["segment"] = segment_of(table["average_bits"].to_numpy(), edges)
    table["on_front"] = False
    completed = table[table["status"] == "completed"]
    for _, rows_of_round in completed.groupby("round"):
        table.loc[rows_of_round.index, "on_front"] = selection_front(rows_of_round, edges)
    return table[list(TRIAL_COLUMNS)]


def selection_front(trials: pd.DataFrame, edges: Floats) -> Booleans:
    """Return which completed rows of one round are on its segmented front (rows)."""
    return segmented_front(np.column_stack([selection_loss(trials), trials["average_bits"]]), edges)
