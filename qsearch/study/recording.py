"""An open study, and its results as a record."""

from __future__ import annotations

import time
from collections.abc import Callable

import pandas as pd

from qsearch.experiment.trial_table import is_initial, trial_table
from qsearch.provenance.environment import find_versions
from qsearch.search.pareto import reference_point
from qsearch.storage.paths import adapter_path
from qsearch.storage.round_state import predicted_losses, read_rounds
from qsearch.storage.session_files import read_sessions
from qsearch.storage.study_record import StudyRecord, write_study
from qsearch.study.context import Study

SAVE_EVERY = 60.0
"""Least seconds between two records of a round in work, for those who watch it."""

_MAX_SAVING = 0.02
"""Greatest share of the time that saving them may take."""


def training_set_of(study: Study, round: int) -> tuple[tuple[int, ...], int]:
    """Return the round's training set, and how many trials exist before its search."""
    if round > 1:
        before = read_rounds(study.directory)[round - 2]
        return before.next_set, before.trials
    trials = study.client._experiment.trials
    initial = tuple(number for number in sorted(trials) if is_initial(trials[number]))
    return initial, len(initial)


def trial_rows(study: Study) -> pd.DataFrame:
    """Return the study's trials as rows of ``trials.parquet``."""
    rounds = read_rounds(study.directory)
    sets = [state.record.training_set for state in rounds]
    if adapter_path(study.directory, len(sets)).is_file():
        sets.append(training_set_of(study, len(sets))[0])
    return trial_table(
        study.client._experiment,
        study.components.space,
        study.metric,
        sets,
        [state.estimated for state in rounds],
        [
            *(state.predicted for state in rounds),
            predicted_losses(study.directory, len(rounds)),
        ],
        study.edges,
    )


def save_record(study: Study, table: pd.DataFrame | None = None) -> StudyRecord:
    """Write the study's results so far into its directory, and return them.

    Args:
        study: The open study.
        table: What :func:`trial_rows` returns of it, if that is known.
    """
    spec, components = study.spec, study.components
    rounds, sessions = read_rounds(study.directory), read_sessions(study.directory)
    table = trial_rows(study) if table is None else table
    first = table[(table["round"] == 1) & (table["status"] == "completed")]
    record = StudyRecord(
        name=spec.name,
        model=spec.model.name,
        task=spec.task.name,
        quantizer=spec.quantizer.name,
        trainer=spec.trainer.name,
        metric=components.task.metric,
        layers=components.space.layers,
        choices=components.space.choices,
        average_bits_range=components.space.average_bits_range,
        segment_edges=tuple(study.edges.tolist()),
        reference_point=(
            reference_point(first["loss"].to_numpy(), spec.search.average_bits)
            if len(first)
            else None
        ),
        rounds=tuple(state.record for state in rounds),
        trials=table,
        versions=sessions[-1].versions if sessions else find_versions(spec),
        sessions=sessions,
    )
    write_study(study.directory, record)
    return record


def saving_now_and_then(study: Study) -> Callable[[], None]:
    """Return what to call after each evaluation: it saves the record if that was long ago.

    Args:
        study: The open study, whose record was just saved.
    """
    due = time.monotonic() + SAVE_EVERY

    def save_if_due() -> None:
        nonlocal due
        if (start := time.monotonic()) >= due:
            save_record(study)
            end = time.monotonic()
            due = end + max(SAVE_EVERY, (end - start) / _MAX_SAVING)

    return save_if_due
