"""Configurations evaluated by the tasks of a harness, as they are deployed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qsearch.deployment.evaluating import LOADED, Progress
from qsearch.deployment.study_trainer import load_last_state, own_inputs, study_components
from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsTaskHarness
from qsearch.plugins.harness import HarnessResults
from qsearch.storage.study_record import StudyRecord, row_bytes, row_configuration


@dataclass(frozen=True)
class HarnessModel:
    """What tasks say of a model; the row of ``trials.parquet`` if it is a configuration."""

    name: str
    results: HarnessResults
    row: pd.Series | None = None


@dataclass(frozen=True)
class HarnessEvaluation:
    """What tasks say of picked configurations and of the unquantized model."""

    study: str
    limit: int | None
    models: tuple[HarnessModel, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, nothing rounded; None for what is not known."""
        return {
            "study": self.study,
            "limit": self.limit,
            "models": [
                {
                    "name": model.name,
                    "trial": None if model.row is None else int(model.row["trial"]),
                    "average_bits": None if model.row is None else float(model.row["average_bits"]),
                    "file_bytes": row_bytes(model.row),
                    "scores": [asdict(score) for score in model.results.scores],
                    "harness": dict(model.results.record),
                }
                for model in self.models
            ],
        }


def evaluate_harness(
    directory: Path,
    record: StudyRecord,
    rows: Sequence[pd.Series],
    tasks: Sequence[str],
    limit: int | None = None,
    show: Progress = lambda name: None,
) -> HarnessEvaluation:
    """Run tasks on rows of the last finished round, each once, and on the unquantized model.

    Raises:
        InputError: If the trainer has no harness, a task cannot be loaded, or the model cannot, or
            is not that of the study.
        QsearchError: If a task fails.
    """
    components = study_components(directory, record)
    trainer = components.trainer
    if not isinstance(trainer, SupportsTaskHarness):
        raise InputError(f"--lm-eval: trainer {record.trainer!r} runs no tasks of lm_eval")
    show(f"loading tasks: {', '.join(tasks)}")
    run = trainer.load_harness(tasks, limit)
    # The tasks have data of their own.
    own_inputs(directory, record, components, splits=())
    load_last_state(directory, record, trainer)
    models = []
    for number, row in {int(row["trial"]): row for row in rows}.items():
        show(f"running tasks on trial {number}")
        models.append(HarnessModel(f"trial {number}", run(row_configuration(row)), row))
    show(f"running tasks on the {LOADED}")
    models.append(HarnessModel(LOADED, run(None)))
    return HarnessEvaluation(record.name, limit, tuple(models))
