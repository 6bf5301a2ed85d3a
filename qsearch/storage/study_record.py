"""A study's results as data: what the files in its directory say, free of Ax and PyTorch.

The study writes these files and every reader (report, pick, status, a user's script) reads them
here, so that a result can be used without opening the database.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from qsearch.errors import InputError
from qsearch.plugins.evaluation import Evaluation, Metric, MetricValue
from qsearch.plugins.source_precision import SourcePrecision
from qsearch.plugins.trial_columns import STANDARD_ERROR, TRIAL_COLUMNS, metric_columns
from qsearch.provenance.session import Session
from qsearch.space.configuration import Choices, Configuration
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import OBJECTIVE
from qsearch.storage.checksums import damage
from qsearch.storage.parquet import read_table, write_table
from qsearch.storage.paths import STUDY_FILE, TRIALS_FILE
from qsearch.storage.state_file import StateFile

Size = Literal["average_bits", "bytes"]
"""What a figure draws losses against, and what a study calls the size of a configuration."""

UNIFORM = "uniform"
"""The method of trials that quantize all searched layers alike; those of the first set are the
baselines."""

_TEXTS = ("method", "configuration", "status", "reason")
_FLAGS = ("seen", "on_front")
_COUNTS = ("trial", "round")


@dataclass(frozen=True)
class RoundRecord:
    """What one round, counted from 1, did; times are wall times.

    Args:
        training_set: Trials that the adapter was trained on.
        hypervolume: Of the round's completed trials, normalised (see :class:`StudyFacts`).
        evaluate_seconds: Of all evaluations that gave a loss.
        search_seconds: Of fitting and searching in the session that finished the round.
        train_losses: Training loss of each step, nats.
        full_precision: What the model scores on the validation examples with the round's adapter
            where no weight is quantized; None if the trainer cannot evaluate that, or it failed.
    """

    round: int
    training_set: tuple[int, ...]
    hypervolume: float
    train_seconds: float
    evaluate_seconds: float
    search_seconds: float
    train_losses: tuple[float, ...]
    full_precision: Evaluation | None = None


@dataclass(frozen=True)
class StudyFacts:
    """What a study's results are of, and its finished rounds.

    Args:
        metrics: The main one first; none in a study of an objective without one.
        layers: The quantizable layers, in model order.
        size: What sizes are in reports; fronts by the one are fronts by the other.
        average_bits_range: Least and greatest average bits that the space holds.
        segment_edges: In average bits (segments + 1 values).
        reference_point: (loss, average bits) that hypervolume is measured from; hypervolume is
            divided by the area between this point and (0, least average bits); see
            :func:`~qsearch.search.pareto.ideal_point` for negative losses.
        versions: Of the libraries that ran its last session.
        pinned: Layers that the study quantizes alike in all configurations (``space.fixed``).
        chance_loss: What guessing loses on the validation examples, nats; None if it is not known.
        objective: What the search lowers: the loss, or a metric by its name. Fronts, hypervolume
            and the reference point are of it.
        format: Version of the file's form.
    """

    name: str
    model: str
    task: str
    quantizer: str
    trainer: str
    metrics: tuple[Metric, ...]
    layers: tuple[LayerSpec, ...]
    choices: Choices
    average_bits_range: tuple[float, float]
    segment_edges: tuple[float, ...]
    reference_point: tuple[float, float] | None
    size: Size = "average_bits"
    rounds: tuple[RoundRecord, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    sessions: tuple[Session, ...] = ()
    pinned: tuple[str, ...] = ()
    chance_loss: float | None = None
    objective: str = "loss"
    format: Literal[2] = 2

    @property
    def metric(self) -> Metric | None:
        """The main metric, if there is one."""
        return self.metrics[0] if self.metrics else None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the metrics, in order."""
        return tuple(metric.name for metric in self.metrics)

    @property
    def source_precision(self) -> SourcePrecision | None:
        """How precise the files were that the model was loaded from, where it is known."""
        return self.sessions[-1].source_precision if self.sessions else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits the results: overlapping data, too few examples, a quantized original."""
        return self.sessions[-1].warnings if self.sessions else ()

    @property
    def searched_bits(self) -> tuple[float, float] | None:
        """The interval of average bits that is searched, however the study gives it."""
        return (self.segment_edges[0], self.segment_edges[-1]) if self.segment_edges else None

    @property
    def is_trained(self) -> bool:
        """Whether its trainer trains, on sets of configurations; that of an objective does not."""
        sets = [entry.training_set for entry in self.rounds]
        return any(sets) if sets else self.trainer != OBJECTIVE


_FACTS = StateFile(StudyFacts)


@dataclass(frozen=True)
class StudyRecord(StudyFacts):
    """All results of a study: its facts, and its trials as a table.

    The table has :data:`TRIAL_COLUMNS` and :func:`metric_columns`; without metrics by default.
    """

    trials: pd.DataFrame = field(default_factory=lambda: empty_trials())

    @property
    def latest(self) -> pd.DataFrame:
        """Completed rows of the last finished round: all under one adapter.

        While round 1 runs, what it has evaluated so far.
        """
        last = self.rounds[-1].round if self.rounds else 1
        completed = self.trials[self.trials["status"] == "completed"]
        rows: pd.DataFrame = completed[completed["round"] == last]
        return rows


def empty_trials(metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Return a trial table without rows, of metrics by name."""
    return pd.DataFrame({column: [] for column in (*TRIAL_COLUMNS, *metric_columns(metrics))})


def write_study(directory: Path, record: StudyRecord) -> None:
    """Write the record's files (``state/study.json`` and ``trials.parquet``) into a directory."""
    (directory / "state").mkdir(parents=True, exist_ok=True)
    _FACTS.write(directory / STUDY_FILE, record)
    columns = [*TRIAL_COLUMNS, *metric_columns(record.metric_names)]
    write_table(directory / TRIALS_FILE, record.trials[columns])


def read_study(directory: Path) -> StudyRecord:
    """Read the results in a study directory; InputError if there are none that can be read."""
    facts, path = read_facts(directory), directory / TRIALS_FILE
    names = facts.metric_names
    trials = read_trials(path, names) if path.exists() else empty_trials(names)
    return StudyRecord(**vars(facts), trials=trials)


def read_facts(directory: Path) -> StudyFacts:
    """Read what :func:`read_study` does but for the trials."""
    path = directory / STUDY_FILE
    if not directory.is_dir():
        raise InputError(f"{directory}: there is no such directory")
    if not path.exists():
        raise InputError(f"{directory} holds no study results: {path} is missing")
    return _FACTS.read(path)


def read_trials(path: Path, metrics: Sequence[str]) -> pd.DataFrame:
    """Return what ``trials.parquet`` holds; DamagedFileError if it is damaged.

    So it is if it has other columns than those of the study's metrics, by name.
    """
    columns = (*TRIAL_COLUMNS, *metric_columns(metrics))
    table = read_table(path)
    with damage(path, ValueError):
        if tuple(table) != columns:
            missing, more = set(columns) - set(table), set(table) - set(columns)
            raise ValueError(
                f"it lacks the columns {sorted(missing)}, and has {sorted(map(str, more))} more"
            )
        _require_kinds(table)
    return table


def _require_kinds(table: pd.DataFrame) -> None:
    """Require that columns hold what they are for; a table of others may hold anything."""
    for name in table if len(table) else ():
        column = table[name]
        if name in _TEXTS:
            fits = all(isinstance(value, str) for value in column)
        elif name in _FLAGS:
            fits = is_bool_dtype(column)
        elif name in _COUNTS:
            fits = is_integer_dtype(column) and bool((column >= 0).all())
        else:
            fits = is_numeric_dtype(column) and not is_bool_dtype(column)
        if not fits:
            raise ValueError(f"its column {name!r} holds other values than it may")
    known = table.loc[table["status"] == "completed", ["average_bits", "segment"]]
    if not known.map(math.isfinite).all(axis=None):
        raise ValueError("a completed trial has no average bits, or no segment")
    if not set(table["status"]) <= {"completed", "failed"}:
        raise ValueError("its column 'status' holds other values than it may")


def selection_loss(trials: pd.DataFrame, objective: str = "loss") -> pd.Series:
    """Return what rows of a trial table are chosen by: the loss, estimated or else observed.

    With a metric as the study's objective, it is that metric, as it was observed.

    The least of many observed losses is in part sampling noise; the configuration of least
    estimated loss scores better on examples that no search saw (``make bench-unseen``).
    """
    if objective != "loss":
        return trials[objective].astype(float).rename("loss")
    return trials["estimated_loss"].fillna(trials["loss"]).astype(float)


def row_metrics(metrics: Sequence[str], row: pd.Series) -> dict[str, MetricValue]:
    """Return the metrics of a row of a trial table by name, without those that are not known."""
    return {
        name: MetricValue(float(row[name]), float(row[f"{name}{STANDARD_ERROR}"]))
        for name in metrics
        if not math.isnan(row[name])
    }


def row_configuration(row: pd.Series) -> Configuration:
    """Return the configuration of a trial row."""
    return Configuration.from_json(str(row["configuration"]))


def row_bytes(row: pd.Series | None) -> int | None:
    """Return the bytes of a trial row's weight files, if both are known."""
    return None if row is None or math.isnan(row["bytes"]) else int(row["bytes"])


def row_values(record: StudyRecord, row: pd.Series) -> dict[str, Any]:
    """Return what is known of a completed row, by name, as JSON values; None if not known."""
    return {
        "trial": int(row["trial"]),
        "round": int(row["round"]),
        "average_bits": float(row["average_bits"]),
        "file_bytes": row_bytes(row),
        "loss": float(row["loss"]),
        "standard_error": float(row["standard_error"]),
        "estimated_loss": _known(row["estimated_loss"]),
        "estimated_loss_std": _known(row["estimated_loss_std"]),
        "metrics": {
            name: {"value": metric.value, "standard_error": _known(metric.standard_error)}
            for name, metric in row_metrics(record.metric_names, row).items()
        },
        "seen": bool(row["seen"]) if record.is_trained else None,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
