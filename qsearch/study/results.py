"""An open study's results, saved in its directory: its trials as a table, and its record.

Each single result is saved by :mod:`qsearch.experiment.trials` when it comes.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from qsearch.experiment.trial_table import trial_table
from qsearch.provenance.environment import find_versions
from qsearch.search.pareto import reference_point
from qsearch.storage.paths import adapter_path
from qsearch.storage.round_state import predicted_losses
from qsearch.storage.study_record import StudyRecord, write_study
from qsearch.study.running_study import RunningStudy

SAVE_EVERY = 60.0
"""Least seconds between two records of the current round, for those who watch it."""

MAX_SAVING = 0.02
"""Greatest share of the time that saving them may take."""


def study_table(study: RunningStudy) -> pd.DataFrame:
    """Return the study's trials as rows of ``trials.parquet``."""
    rounds, round = study.rounds, study.round
    sets = [state.record.training_set for state in rounds]
    if adapter_path(study.directory, round).is_file():
        sets.append(study.training_set(round)[0])
    return trial_table(
        study.trials,
        sets,
        [state.estimated for state in rounds],
        [*(state.predicted for state in rounds), predicted_losses(study.directory, round)],
        study.edges,
        study.spec.search.objective,
        study.size.file_bytes,
    )


def save_record(study: RunningStudy, table: pd.DataFrame | None = None) -> StudyRecord:
    """Write the results so far into the study's directory, and return them."""
    spec, components = study.spec, study.components
    objective = spec.search.objective
    evaluated = study.trials.evaluated_in(1).values()
    first = np.array([evaluation.value_of(objective) for evaluation in evaluated])
    record = StudyRecord(
        name=spec.name,
        model=spec.model.name,
        task=spec.task.name,
        quantizer=spec.quantizer.name,
        trainer=spec.trainer.name,
        metrics=components.task.metrics,
        layers=components.space.layers,
        choices=components.space.choices,
        size=spec.search.size,
        pinned=tuple(components.space.pinned),
        chance_loss=study.chance_loss,
        average_bits_range=components.space.average_bits_range,
        segment_edges=tuple(study.edges.tolist()),
        reference_point=reference_point(first, study.size.bits) if len(first) else None,
        rounds=tuple(state.record for state in study.rounds),
        trials=study_table(study) if table is None else table,
        versions=study.sessions[-1].versions if study.sessions else find_versions(spec),
        sessions=study.sessions,
        objective=objective,
    )
    write_study(study.directory, record)
    return record


class PeriodicRecord:
    """Saves the record of an open study periodically; the record was just saved."""

    def __init__(self, study: RunningStudy) -> None:
        self._study = study
        self._due = time.monotonic() + SAVE_EVERY

    def save_if_due(self) -> None:
        """Save it, unless that was done a moment ago."""
        if (start := time.monotonic()) >= self._due:
            save_record(self._study)
            end = time.monotonic()
            self._due = end + max(SAVE_EVERY, (end - start) / MAX_SAVING)
