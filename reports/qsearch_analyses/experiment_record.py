"""An Ax experiment that QsearchNode proposes to, as the record of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ax.core.data import Data
from ax.core.experiment import Experiment
from ax.core.trial import Trial
from ax.core.trial_status import TrialStatus
from ax.generation_strategy.generation_strategy import GenerationStrategy
from qsearch_reports.frames import hypervolume

from qsearch._arrays import Floats
from qsearch.errors import InputError
from qsearch.experiment.node import QsearchNode
from qsearch.experiment.parameters import AVERAGE_BITS, LOSS, from_parameters
from qsearch.plugins.evaluation import Metric
from qsearch.plugins.trial_columns import TRIAL_COLUMNS, metric_columns
from qsearch.search.pareto import reference_point, segment_edges, segment_of, segmented_front
from qsearch.storage.study_record import RoundRecord, StudyRecord

_SECONDS = "seconds"
_UNKNOWN = "unknown"


def experiment_record(
    experiment: Experiment | None, generation_strategy: GenerationStrategy | None
) -> StudyRecord:
    """Return what an experiment holds, in the form that frames are made from.

    A configuration is what the node's space makes of a trial's parameters; its average bits are
    exact. A round is a progression of the data, 1 without one. What an Ax client does not know is
    left out: training, and estimated losses.

    Raises:
        InputError: If there is no experiment or no such node, or a trial's parameters are none of
            its space.
    """
    if experiment is None:
        raise InputError("an experiment is needed, or a study's directory")
    node = _node(generation_strategy)
    data = _results(experiment.lookup_data())
    rows = [row for trial in experiment.trials.values() for row in _rows(trial, node, data)]
    names = _metric_names(data)
    trials = pd.DataFrame(rows, columns=[*TRIAL_COLUMNS, *metric_columns(names)])
    edges = segment_edges(node.bits, node.segments)
    trials = _on_fronts(trials, edges)
    completed = trials[trials["status"] == "completed"]
    least = node.space.average_bits_range[0]
    reference = None
    if len(completed):
        first = completed[completed["round"] == completed["round"].min()]
        found = reference_point(first["loss"].to_numpy(dtype=np.float64), node.bits)
        reference = found if found[0] > 0 and found[1] > least else None
    return StudyRecord(
        name=str(experiment.name),
        model=_UNKNOWN,
        task=_UNKNOWN,
        quantizer=_UNKNOWN,
        trainer=_UNKNOWN,
        metrics=tuple(Metric(name, _better(experiment, name)) for name in names),
        layers=node.space.layers,
        choices=node.space.choices,
        average_bits_range=node.space.average_bits_range,
        segment_edges=tuple(float(edge) for edge in edges),
        reference_point=reference,
        rounds=tuple(
            _round(number, completed[completed["round"] == number], reference, least)
            for number in sorted(set(completed["round"].tolist()))
        ),
        trials=trials,
    )


def _node(strategy: GenerationStrategy | None) -> QsearchNode:
    nodes = [] if strategy is None else list(strategy.nodes_by_name.values())
    for node in nodes:
        if isinstance(node, QsearchNode):
            return node
    raise InputError(
        "the generation strategy has no QsearchNode, which knows the layers; give the directory of"
        " the study instead"
    )


def _results(data: Data) -> pd.DataFrame:
    """Return means and standard errors by trial and round: columns (``mean``/``sem``, metric)."""
    frame = data.full_df
    step = frame["step"].fillna(1) if "step" in frame else 1
    table: pd.DataFrame = frame.assign(round=step).pivot_table(
        index=["trial_index", "round"],
        columns="metric_name",
        values=["mean", "sem"],
        aggfunc="last",
        dropna=False,
    )
    return table


def _rows(trial: Any, node: QsearchNode, data: pd.DataFrame) -> list[dict[str, Any]]:
    if not isinstance(trial, Trial) or trial.arm is None:
        return []
    index = from_parameters(node.space, trial.arm.parameters)
    common = {
        **dict.fromkeys((*TRIAL_COLUMNS, *metric_columns(_metric_names(data))), math.nan),
        "trial": trial.index,
        "method": _method(trial),
        "average_bits": float(node.space.average_bits(index)),
        "seen": False,
        "on_front": False,
        "configuration": node.space.decode(index).to_json(),
        "status": "completed",
        "reason": "",
    }
    own = data[data.index.get_level_values("trial_index") == trial.index]
    if trial.status in (TrialStatus.FAILED, TrialStatus.ABANDONED):
        reason = trial.status_reason or trial.status.name.lower()
        last = int(max(own.index.get_level_values("round"), default=1))
        return [{**common, "round": last, "status": "failed", "reason": reason}]
    if trial.status != TrialStatus.COMPLETED:
        return []
    return [
        {
            **common,
            "round": int(number),
            "loss": _value(row, "mean", LOSS),
            "standard_error": _value(row, "sem", LOSS),
            **_metric_cells(row, _metric_names(data)),
            "seconds": _value(row, "mean", _SECONDS),
        }
        for (_, number), row in own.iterrows()
        if not math.isnan(_value(row, "mean", LOSS))
    ]


def _value(row: pd.Series, kind: str, metric: str | None) -> float:
    value = row.get((kind, metric), math.nan)
    return math.nan if pd.isna(value) else float(value)


def _metric_cells(row: pd.Series, names: Sequence[str]) -> dict[str, float]:
    cells = [_value(row, kind, name) for name in names for kind in ("mean", "sem")]
    return dict(zip(metric_columns(names), cells, strict=True))


def _metric_names(data: pd.DataFrame) -> list[str]:
    """Return the metrics that are neither loss, bits nor time, by name."""
    names = {str(name) for kind, name in map(tuple, data.columns) if kind == "mean"}
    return sorted(names - {LOSS, AVERAGE_BITS, _SECONDS})


def _better(experiment: Experiment, name: str) -> Any:
    metric = experiment.metrics.get(name)
    return "higher" if metric is None or not metric.lower_is_better else "lower"


def _method(trial: Trial) -> str:
    made = trial.generator_run
    return str(getattr(made, "_generation_node_name", None) or "attached")


def _on_fronts(trials: pd.DataFrame, edges: Floats) -> pd.DataFrame:
    """Return the trials with their segments, and which of each round are on its fronts."""
    bits = trials["average_bits"].to_numpy(dtype=np.float64)
    trials = trials.assign(segment=segment_of(bits, edges) if len(trials) else 0)
    completed = trials[trials["status"] == "completed"]
    for _, group in completed.groupby("round"):
        pairs = group[["loss", "average_bits"]].to_numpy(dtype=np.float64)
        trials.loc[group.index, "on_front"] = segmented_front(pairs, edges)
    return trials


def _round(
    number: int, group: pd.DataFrame, reference: tuple[float, float] | None, least: float
) -> RoundRecord:
    return RoundRecord(
        round=number,
        training_set=(),
        hypervolume=math.nan if reference is None else hypervolume(group, reference, least),
        train_seconds=0.0,
        evaluate_seconds=float(group["seconds"].sum()),
        search_seconds=0.0,
        train_losses=(),
    )
