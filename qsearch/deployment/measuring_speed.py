"""Tokens a second of a study's configurations, measured on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from qsearch.deployment.selection import completed_rows
from qsearch.deployment.study_trainer import load_last_state, study_components
from qsearch.errors import InputError
from qsearch.plugins.speed import (
    ProductSpeed,
    SpeedConditions,
    SpeedProgress,
    SpeedTable,
    SupportsSpeed,
)
from qsearch.storage.measurements import read_speed, write_speed
from qsearch.storage.study_record import StudyRecord, read_study, row_configuration


def measure_study_speed(
    directory: Path,
    threads: int | None = None,
    source: Path | None = None,
    show: SpeedProgress = lambda what: None,
) -> tuple[SpeedTable, StudyRecord]:
    """Measure the speed of a study's configurations on this machine, and keep it in its directory.

    Whole files of the smallest, a middle and the largest configuration of the last finished round
    say what is not a product, and how good predictions are. By default there are as many threads as
    PyTorch has. Products that another study's directory has, the source, are not measured.

    Raises:
        InputError: If the study's trainer measures no speed, or the other study's is of another
            machine, engine or number of threads.
    """
    record = read_study(directory)
    rows = completed_rows(record).sort_values("average_bits")
    trainer = study_components(directory, record).trainer
    if not isinstance(trainer, SupportsSpeed):
        raise InputError(f"trainer {record.trainer!r} of {directory} measures no speed")
    conditions = trainer.speed_conditions(threads or torch.get_num_threads())
    known = () if source is None else _known(source, conditions)
    show("loading the model")
    load_last_state(directory, record, trainer)
    places = dict.fromkeys((0, len(rows) // 2, len(rows) - 1))
    checked = [row_configuration(rows.iloc[place]) for place in places]
    table = trainer.measure_speed(conditions, checked, known, show)
    write_speed(directory, table)
    return table, record


def _known(source: Path, conditions: SpeedConditions) -> Sequence[ProductSpeed]:
    table = read_speed(source)
    if table is None:
        raise InputError(f"--from {source}: no speed was measured there")
    here, there = asdict(conditions), asdict(table.conditions)
    differing = [
        f"{name} {there[name]}, here {value}"
        for name, value in here.items()
        if there[name] != value
    ]
    if differing:
        raise InputError(f"--from {source}: it was measured elsewhere: {'; '.join(differing)}")
    return table.products
