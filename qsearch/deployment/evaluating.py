"""Configurations evaluated on a split that no search has seen, compared with other models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from qsearch._text import warn
from qsearch.claims.claims import baselines
from qsearch.claims.paired_difference import PairedDifference, paired_scores
from qsearch.deployment.study_trainer import load_last_state, study_components
from qsearch.errors import InputError, QsearchError
from qsearch.plugins.capabilities import SupportsFullPrecision
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Split, Trainer
from qsearch.plugins.references import SupportsLoadedModel
from qsearch.storage.study_record import StudyRecord, row_bytes, row_configuration
from qsearch.study.warnings import study_warnings

FULL_PRECISION = "full precision"
"""The adapter of the last finished round with no weight quantized."""

LOADED = "loaded model"
"""The model as it is loaded, without an adapter."""

Progress = Callable[[str], None]
"""Called with the name of what is evaluated next."""


@dataclass(frozen=True)
class EvaluatedModel:
    """What a model scored on a split; the row of ``trials.parquet`` if it is a configuration."""

    name: str
    evaluation: Evaluation
    row: pd.Series | None = None


@dataclass(frozen=True)
class Difference:
    """A picked configuration's loss, or metric of examples, less that of another model."""

    name: str
    other: str
    metric: str
    difference: PairedDifference


@dataclass(frozen=True)
class SplitEvaluation:
    """What models scored on a split of a study's data, and how picked ones differ from others."""

    study: str
    split: str
    models: tuple[EvaluatedModel, ...]
    differences: tuple[Difference, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, nothing rounded; None for what is not known."""
        return {
            "study": self.study,
            "split": self.split,
            "models": [_model_values(model) for model in self.models],
            "differences": [
                {"model": one.name, "other": one.other, "metric": one.metric}
                | asdict(one.difference)
                for one in self.differences
            ],
        }


def evaluate_split(
    directory: Path,
    record: StudyRecord,
    rows: Sequence[pd.Series],
    split: Split,
    length: int | None = None,
    show: Progress = lambda name: None,
) -> SplitEvaluation:
    """Evaluate rows of the last finished round, its baselines and the unquantized model on a split.

    ``length`` is that of sequences, instead of the study's own (``task.length``).

    Raises:
        InputError: If the study names no such split, or its data or the model cannot be read.
        QsearchError: If an evaluation fails.
    """
    components = study_components(directory, record, length)
    trainer = components.trainer
    for warning in study_warnings(components):
        warn(warning)
    show("the state of the last finished round")
    load_last_state(directory, record, trainer)
    picked = {int(row["trial"]): row for row in rows}
    named = {f"trial {number}": row for number, row in picked.items()}
    named |= {
        name: row for name, row in baselines(record).items() if int(row["trial"]) not in picked
    }
    models: list[EvaluatedModel] = []

    def add(name: str, evaluate: Callable[[], Evaluation | None], row: pd.Series | None) -> None:
        show(name)
        evaluation = evaluate()
        if evaluation is None:
            return
        if not math.isfinite(evaluation.loss):
            raise QsearchError(f"{name}: its loss on the {split} data is {evaluation.loss}")
        models.append(EvaluatedModel(name, evaluation, row))

    for name, row in named.items():
        add(name, partial(_evaluate, trainer, row, split), row)
    if isinstance(trainer, SupportsFullPrecision):
        add(FULL_PRECISION, lambda: trainer.evaluate_full_precision(split), None)
    if isinstance(trainer, SupportsLoadedModel):
        add(LOADED, lambda: trainer.evaluate_loaded(split), None)
    return SplitEvaluation(record.name, split, tuple(models), tuple(_differences(models)))


def _evaluate(trainer: Trainer, row: pd.Series, split: Split) -> Evaluation:
    return trainer.evaluate([row_configuration(row)], split)[0]


def _differences(models: Sequence[EvaluatedModel]) -> list[Difference]:
    """Return how each picked configuration, named by its trial, differs from all other models."""
    found = []
    for model in models:
        if not model.name.startswith("trial "):
            continue
        for other in models:
            own, compared = model.evaluation.examples, other.evaluation.examples
            if other is model or own is None or compared is None or len(own.losses) < 2:
                continue
            for metric in ("loss", *sorted(own.metrics.keys() & compared.metrics.keys())):
                with suppress(InputError):  # No example has the metric under both.
                    difference = paired_scores(own, compared, metric)
                    found.append(Difference(model.name, other.name, metric, difference))
    return found


def _model_values(model: EvaluatedModel) -> dict[str, Any]:
    row, evaluation = model.row, model.evaluation
    examples = evaluation.examples
    return {
        "name": model.name,
        "trial": None if row is None else int(row["trial"]),
        "average_bits": None if row is None else float(row["average_bits"]),
        "file_bytes": row_bytes(row),
        "examples": None if examples is None else len(examples.losses),
        "loss": evaluation.loss,
        "standard_error": evaluation.standard_error,
        "metrics": {
            name: {
                "value": metric.value,
                "standard_error": None
                if math.isnan(metric.standard_error)
                else metric.standard_error,
            }
            for name, metric in evaluation.metrics.items()
        },
        "seconds": evaluation.seconds,
    }
