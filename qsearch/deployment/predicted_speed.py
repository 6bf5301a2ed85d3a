"""Tokens a second that configurations are predicted to generate, and are required to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from qsearch.deployment.selection import completed_rows
from qsearch.errors import InputError
from qsearch.space.configuration import Configuration
from qsearch.storage.measurements import read_speed
from qsearch.storage.study_record import StudyRecord, row_configuration

SPEED_OPTION = "--tokens-per-second"


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
