"""Ax's trials as the rows of ``trials.parquet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
from ax.core.experiment import Experiment
from ax.core.trial import Trial
from ax.core.trial_status import TrialStatus

from qsearch._arrays import Booleans, Floats
from qsearch.experiment.parameters import AVERAGE_BITS, LOSS, stored_precision
from qsearch.plugins.evaluation import Evaluation
from qsearch.search.pareto import segment_of, segmented_front
from qsearch.space.space import Space
from qsearch.storage.study_record import TRIAL_COLUMNS, empty_trials, selection_loss

FAILED_ROUND = "qsearch_failed_round"
FAILED_REASON = "qsearch_failed_reason"

ModelledLosses = Mapping[int, tuple[float, float]]
"""Mean and standard deviation of a loss by trial, nats, as the surrogate has them."""

_FIGURES = (
    "loss",
    "metric",
    "standard_error",
    "metric_standard_error",
    "seconds",
    "estimated_loss",
    "estimated_loss_std",
    "predicted_loss",
    "predicted_loss_std",
)
"""Columns that a failed trial has no figures for."""


def ax_data(
    evaluation: Evaluation, average_bits: float, metric: str
) -> dict[str, tuple[float, float]]:
    """Return an evaluation as Ax raw data: mean and standard error by metric name."""
    return {
        LOSS: (evaluation.loss, evaluation.standard_error),
        AVERAGE_BITS: (average_bits, 0.0),
        metric: (evaluation.metric, evaluation.metric_standard_error),
        "seconds": (evaluation.seconds, 0.0),
    }


def evaluated_in(experiment: Experiment, round: int) -> set[int]:
    """Return the trials that have a loss in a round."""
    frame = experiment.lookup_data().full_df
    if "step" not in frame:  # Ax leaves the column out while there is no data.
        return set()
    rows = frame[(frame["metric_name"] == LOSS) & (frame["step"] == round)]
    return {int(number) for number in rows["trial_index"]}


def trial_table(
    experiment: Experiment,
    space: Space,
    metric: str,
    training_sets: Sequence[Sequence[int]],
    expected: Sequence[ModelledLosses],
    predicted: Sequence[ModelledLosses],
    edges: Floats,
) -> pd.DataFrame:
    """Return one row per configuration and round, in order of round and trial.

    Args:
        experiment: The study's Ax experiment.
        space: The space.
        metric: Name of the task metric.
        training_sets: Trials that each round has trained on, by round.
        expected: What each finished round expects of its trials, by round.
        predicted: What each round's search predicted of its candidates, by round.
        edges: Edges of the segments (segments + 1).
    """
    numbers = sorted(experiment.trials)
    if not numbers:
        return empty_trials()
    index = {
        number: space.from_parameters(experiment.trials[number].arm.parameters)
        for number in numbers
    }
    bits = {number: float(space.average_bits(index[number])) for number in numbers}
    configurations = {number: space.decode(index[number]).to_json() for number in numbers}
    first_seen: dict[int, int] = {}
    for round, members in enumerate(training_sets, start=1):
        for number in members:
            first_seen.setdefault(number, round)

    def common(number: int, round: int) -> dict[str, object]:
        return {
            "trial": number,
            "round": round,
            "method": method_of(experiment.trials[number]),
            "average_bits": bits[number],
            "seen": first_seen.get(number, round + 1) <= round,
            "configuration": configurations[number],
        }

    unknown = (float("nan"), float("nan"))
    rows: list[dict[str, object]] = []
    frame = stored_precision(experiment.lookup_data().full_df)
    frame = frame.dropna(subset=["step"]) if "step" in frame else frame.iloc[:0].assign(step=0)
    for key, group in frame.groupby(["trial_index", "step"]):
        number, step = cast("tuple[int, float]", key)
        mean = dict(zip(group["metric_name"], group["mean"], strict=True))
        error = dict(zip(group["metric_name"], group["sem"], strict=True))
        if LOSS in mean:
            modelled = [
                by_round[int(step) - 1].get(int(number), unknown)
                if step <= len(by_round)
                else unknown
                for by_round in (expected, predicted)
            ]
            rows.append(
                {
                    **common(int(number), int(step)),
                    "loss": mean[LOSS],
                    "metric": mean[metric],
                    "standard_error": error[LOSS],
                    "metric_standard_error": error[metric],
                    "seconds": mean["seconds"],
                    "status": "completed",
                    "reason": "",
                    "estimated_loss": modelled[0][0],
                    "estimated_loss_std": modelled[0][1],
                    "predicted_loss": modelled[1][0],
                    "predicted_loss_std": modelled[1][1],
                }
            )
    for number in numbers:
        trial = experiment.trials[number]
        if trial.status == TrialStatus.FAILED:
            rows.append(
                {
                    **common(number, int(trial.run_metadata[FAILED_ROUND])),
                    **dict.fromkeys(_FIGURES, float("nan")),
                    "status": "failed",
                    "reason": str(trial.run_metadata[FAILED_REASON]),
                }
            )
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
    """Return which completed rows of one round are on its segmented front (rows).

    Args:
        trials: Rows of a trial table.
        edges: Edges of the segments (segments + 1).
    """
    return segmented_front(np.column_stack([selection_loss(trials), trials["average_bits"]]), edges)


def method_of(trial: object) -> str:
    """Return where an Ax trial came from: initial trials carry it in their arm's name."""
    name: str = trial.arm.name  # type: ignore[attr-defined]
    method, separator, _ = name.partition("-")
    return method if separator else "search"


def is_initial(trial: Trial) -> bool:
    """Return whether a trial is of the first set: its arm is named ``METHOD-NUMBER``."""
    return str(trial.arm.name).partition("-")[2] == str(trial.index)
