"""A study's results as data: what the files in its directory say, free of Ax and PyTorch.

The study writes these files and every reader (report, pick, status, a user's script) reads them
here, so that a result can be used without opening the database.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype
from pydantic import BaseModel, ConfigDict

from qsearch.errors import InputError
from qsearch.plugins.evaluation import Evaluation, Metric
from qsearch.provenance.session import Session, session_values
from qsearch.space.configuration import Choices, Configuration, Knob, KnobValue
from qsearch.space.layers import LayerSpec
from qsearch.storage.checksums import damage
from qsearch.storage.files import (
    read_or_previous,
    read_state,
    to_standard_error,
    write_keeping_previous,
    write_state,
    written_anew_by_a_run,
)
from qsearch.storage.parquet import read_table, write_table
from qsearch.storage.paths import STUDY_FILE, TRIALS_FILE

TRIAL_COLUMNS = (
    "trial",
    "round",
    "method",
    "average_bits",
    "loss",
    "metric",
    "standard_error",
    "seconds",
    "seen",
    "segment",
    "on_front",
    "configuration",
    "metric_standard_error",
    "status",
    "reason",
    "estimated_loss",
    "estimated_loss_std",
    "predicted_loss",
    "predicted_loss_std",
)
"""Columns of ``trials.parquet``: one row per configuration and round.

``status`` is ``completed`` or ``failed``; a failed row has a ``reason``, NaN figures, and is on
no front. ``seen`` says whether the configuration was in a training set up to that round.
``on_front`` says whether it is on the segmented front of that round.

``loss`` is what the validation examples gave, sampling noise included; ``estimated_loss`` is what
the surrogate, once it has seen all losses of the round, expects of the configuration on the whole
task, and ``estimated_loss_std`` how sure it is. Both are NaN until the round ends, and in a study
that does not tell sampling noise apart (``search.target: examples``). Configurations are chosen by
:func:`decisive_loss`.

``predicted_loss`` is what the round's search predicted that ``loss`` would be, from the losses of
the round's set, before it evaluated any candidate; ``predicted_loss_std`` is the standard
deviation of that prediction: of what tells configurations apart, of sampling noise with the
validation examples and of the noise that the surrogate found in single losses. Both are NaN but for
candidates of that very round.
"""

_TEXTS = ("method", "configuration", "status", "reason")
_FLAGS = ("seen", "on_front")
_COUNTS = ("trial", "round")

_ADDED_COLUMNS = (
    "estimated_loss",
    "estimated_loss_std",
    "predicted_loss",
    "predicted_loss_std",
)
"""Columns that studies of earlier versions lack."""


@dataclass(frozen=True)
class RoundRecord:
    """What one round did.

    Args:
        round: Its number, from 1.
        training_set: Trials that the adapter was trained on.
        hypervolume: Of the round's completed trials, normalised (see :class:`StudyRecord`).
        train_seconds: Wall time of training.
        evaluate_seconds: Wall time of all evaluations that gave a loss.
        search_seconds: Wall time of fitting and searching in the session
            that finished the round.
        train_losses: Training loss of each step, nats.
        full_precision: What the model scores on the validation examples with the round's adapter
            where no weight is quantized; None if the trainer cannot tell, it failed, or an earlier
            version ran the round.
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
class StudyRecord:
    """All results of a study.

    Args:
        name: The study's name.
        model: The model's name, as the study gives it.
        task: Name of the task plugin.
        quantizer: Name of the quantizer plugin.
        trainer: Name of the trainer plugin.
        metric: The task metric.
        layers: The quantizable layers, in model order.
        choices: The quantizer's knobs.
        average_bits_range: Least and greatest average bits that the space holds.
        segment_edges: Edges of the segments, in average bits (segments + 1 values).
        reference_point: (loss, average bits) that hypervolume is measured from; hypervolume is
            divided by the area between this point and (0, least average bits).
        rounds: Finished rounds.
        trials: Table with :data:`TRIAL_COLUMNS`.
        versions: Versions of the libraries that ran it, in its last session.
        sessions: What each session ran on; those of earlier versions of qsearch are not known.
    """

    name: str
    model: str
    task: str
    quantizer: str
    trainer: str
    metric: Metric
    layers: tuple[LayerSpec, ...]
    choices: Choices
    average_bits_range: tuple[float, float]
    segment_edges: tuple[float, ...]
    reference_point: tuple[float, float] | None
    rounds: tuple[RoundRecord, ...] = ()
    trials: pd.DataFrame = field(default_factory=lambda: empty_trials())
    versions: Mapping[str, str] = field(default_factory=dict)
    sessions: tuple[Session, ...] = ()

    @property
    def latest(self) -> pd.DataFrame:
        """Completed rows of the last finished round: all under one adapter.

        While round 1 runs, what it has evaluated so far.
        """
        last = self.rounds[-1].round if self.rounds else 1
        completed = self.trials[self.trials["status"] == "completed"]
        rows: pd.DataFrame = completed[completed["round"] == last]
        return rows


def empty_trials() -> pd.DataFrame:
    """Return a trial table without rows."""
    return pd.DataFrame({column: [] for column in TRIAL_COLUMNS})


def write_study(directory: Path, record: StudyRecord) -> None:
    """Write the record's files (``state/study.json`` and ``trials.parquet``) into a directory."""
    (directory / "state").mkdir(parents=True, exist_ok=True)
    write_state(
        directory / STUDY_FILE,
        {
            "format": 1,
            "name": record.name,
            "model": record.model,
            "task": record.task,
            "quantizer": record.quantizer,
            "trainer": record.trainer,
            "metric": asdict(record.metric),
            "layers": [asdict(layer) for layer in record.layers],
            "choices": {knob.name: list(knob.values) for knob in record.choices.knobs},
            "average_bits_range": record.average_bits_range,
            "segment_edges": record.segment_edges,
            "reference_point": record.reference_point,
            "rounds": [asdict(entry) for entry in record.rounds],
            "versions": dict(record.versions),
            "sessions": [session_values(session) for session in record.sessions],
        },
    )
    table = record.trials[list(TRIAL_COLUMNS)]
    write_keeping_previous(directory / TRIALS_FILE, lambda path: write_table(path, table))


def read_study(directory: Path, note: Callable[[str], None] = to_standard_error) -> StudyRecord:
    """Read the results in a study directory.

    Args:
        directory: The directory.
        note: Told of a damaged file whose previous version is read in its place.

    Raises:
        InputError: If the directory holds no study, or its files cannot be read.
    """
    path = directory / STUDY_FILE
    if not directory.is_dir():
        raise InputError(f"{directory}: there is no such directory")
    if not path.is_file():
        raise InputError(f"{directory} holds no study results: {path} is missing")
    trials = directory / TRIALS_FILE
    with written_anew_by_a_run():
        record = read_or_previous(path, read_study_file, note)
        if not trials.is_file():
            return record
        return replace(record, trials=read_or_previous(trials, read_trials, note))


def read_study_file(path: Path) -> StudyRecord:
    """Return what ``state/study.json``, or another version of it, holds: all but the trials.

    Raises:
        DamagedFileError: If it is damaged.
        InputError: If it is of another format.
    """
    loaded = read_state(path)
    with damage(path, AttributeError, KeyError, TypeError, ValueError):
        if loaded["format"] != 1:
            raise InputError(f"{path} has format {loaded['format']!r}; this qsearch reads 1")
        text = json.dumps(loaded)
        json.loads(text, parse_int=_require_small)
        told = _StudyFile.model_validate_json(text)
        fields = {name: getattr(told, name) for name in _StudyFile.model_fields}
        del fields["format"]
        knobs = tuple(Knob(name, values) for name, values in told.choices.items())
        return StudyRecord(**{**fields, "choices": Choices(knobs)})


def _require_small(digits: str) -> None:
    """Refuse an integer that neither tables nor browsers can hold; nothing here counts so far."""
    if abs(int(digits)) >= 2**53:
        raise ValueError(f"an integer of {len(digits)} digits")


class _StudyFile(BaseModel):
    """What ``state/study.json`` holds; files of earlier versions have no checksum to rely on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int
    name: str
    model: str
    task: str
    quantizer: str
    trainer: str
    metric: Metric
    layers: tuple[LayerSpec, ...]
    choices: dict[str, tuple[KnobValue, ...]]
    average_bits_range: tuple[float, float]
    segment_edges: tuple[float, ...]
    reference_point: tuple[float, float] | None
    rounds: tuple[RoundRecord, ...]
    versions: dict[str, str]
    sessions: tuple[Session, ...] = ()


def read_trials(path: Path) -> pd.DataFrame:
    """Return what ``trials.parquet``, or another version of it, holds.

    Raises:
        DamagedFileError: If it is damaged.
    """
    table = read_table(path)
    with damage(path, ValueError):
        missing, more = set(TRIAL_COLUMNS) - set(table), set(table) - set(TRIAL_COLUMNS)
        if more or missing - set(_ADDED_COLUMNS):
            raise ValueError(
                f"it lacks the columns {sorted(missing)}, and has {sorted(map(str, more))} more"
            )
        _require_kinds(table)
    return table.assign(**dict.fromkeys(sorted(missing), math.nan))


def _require_kinds(table: pd.DataFrame) -> None:
    """Require that columns hold what they are for; tables of earlier versions have no checksum.

    Raises:
        ValueError: Naming a column that does not.
    """
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
            raise ValueError(f"its column {name!r} holds something else than it should")
    known = table.loc[table["status"] == "completed", ["average_bits", "segment"]]
    if not known.map(math.isfinite).all(axis=None):
        raise ValueError("a completed trial has no average bits, or no segment")
    if not set(table["status"]) <= {"completed", "failed"}:
        raise ValueError("its column 'status' holds something else than it should")


def selection_loss(trials: pd.DataFrame) -> pd.Series:
    """Return the loss that configurations are chosen by (rows): expected, or else observed.

    The least of many observed losses is in part sampling noise with the examples; the least
    expected one scores better on examples that no search saw (``make bench-unseen``).

    Args:
        trials: Rows of a trial table.
    """
    return trials["estimated_loss"].fillna(trials["loss"]).astype(float)


def row_configuration(row: pd.Series) -> Configuration:
    """Return the configuration of a trial row."""
    return Configuration.from_json(str(row["configuration"]))


def row_figures(record: StudyRecord, row: pd.Series) -> dict[str, Any]:
    """Return what is known of a completed row, by name, as JSON has it; None if it is not known.

    Args:
        record: The study.
        row: The row.
    """
    return {
        "trial": int(row["trial"]),
        "round": int(row["round"]),
        "average_bits": float(row["average_bits"]),
        "loss": float(row["loss"]),
        "standard_error": float(row["standard_error"]),
        "estimated_loss": _known(row["estimated_loss"]),
        "estimated_loss_std": _known(row["estimated_loss_std"]),
        "metric_name": record.metric.name,
        "metric": float(row["metric"]),
        "metric_standard_error": _known(row["metric_standard_error"]),
        "seen": bool(row["seen"]),
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
