"""Tokens a second of configurations: measured once a machine, predicted, and required."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
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
from qsearch.space.configuration import Configuration
from qsearch.storage.measurements import read_speed, write_speed
from qsearch.storage.study_record import StudyRecord, read_study, row_configuration

SPEED_OPTION = "--tokens-per-second"


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


def predicted_speed(
    record: StudyRecord, directory: Path, configuration: Configuration
) -> dict[str, Any] | None:
    """Return tokens a second of a configuration and what they are of, or None if not measured."""
    table = read_speed(directory)
    if table is None:
        return None
    generation = table.generation(record.layers, configuration)
    if not generation > 0:
        return None
    return {
        "generation_tokens_per_second": generation,
        "prompt_tokens_per_second": table.prompt(record.layers, configuration),
        **asdict(table.conditions),
    }


def speed_text(speed: Mapping[str, Any]) -> str:
    """Return a predicted speed as a sentence's end."""
    threads = speed["threads"]
    return (
        f"{speed['generation_tokens_per_second']:.1f} tokens a second, of a prompt"
        f" {speed['prompt_tokens_per_second']:.0f}, in {speed['engine']} with {threads}"
        f" thread{'s' * (threads != 1)}, a prediction"
    )


def generation_speeds(record: StudyRecord, directory: Path, rows: pd.DataFrame) -> pd.Series | None:
    """Return the tokens that configurations of rows generate a second, or None; a prediction."""
    table = read_speed(directory)
    if table is None:
        return None
    values = [table.generation(record.layers, row_configuration(row)) for _, row in rows.iterrows()]
    return pd.Series(values, index=rows.index, dtype=float)


def fast_enough(record: StudyRecord, directory: Path, tokens_per_second: float) -> StudyRecord:
    """Return a record with those of its latest rows that generate enough tokens a second.

    Raises:
        InputError: If none does, or no speed was measured.
    """
    rows = completed_rows(record)
    speeds = generation_speeds(record, directory, rows)
    if speeds is None:
        raise InputError(
            f"{SPEED_OPTION}: no speed was measured of {directory}; run qsearch measure-speed"
            f" {directory} on the machine that is to run the model"
        )
    if speeds.isna().all():
        raise InputError(f"{SPEED_OPTION}: the speed of no configuration can be predicted")
    kept = rows[speeds >= tokens_per_second]
    if kept.empty:
        fastest = rows.iloc[int(speeds.argmax())]
        raise InputError(
            f"{SPEED_OPTION} {tokens_per_second:g}: the fastest configuration generates"
            f" {speeds.max():.4g}, a prediction: trial {int(fastest['trial'])} with"
            f" {fastest['average_bits']:.4f} average bits"
        )
    return replace(record, trials=kept)
