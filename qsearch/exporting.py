"""Exporting the configuration that fits a budget."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError

from qsearch.assembly import assemble
from qsearch.errors import InputError
from qsearch.records import best_under, read_study, row_configuration
from qsearch.spec import load_spec
from qsearch.store import STUDY_YAML
from qsearch.training_state import read_adapter


def export_configuration(directory: Path, bits: float, to: Path, format: str) -> pd.Series:
    """Export the best configuration at or under a budget.

    Args:
        directory: The study's directory.
        bits: Budget in average bits.
        to: Folder to write; it must not exist, or be empty.
        format: One of the trainer's export formats.

    Returns:
        The row of ``trials.parquet`` that was exported.

    Raises:
        InputError: If no configuration fits, the format is unknown, or the folder is in use or
            cannot be written.
    """
    record = read_study(directory)
    row = best_under(record, bits)
    path = directory / STUDY_YAML
    parts = assemble(load_spec(path, resolved=True), str(path))
    formats = parts.trainer.export_formats
    if format not in formats:
        raise InputError(f"--format {format!r}: trainer {record.trainer!r} writes {list(formats)}")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to {to}: exists and is not an empty folder")
    parts.trainer.load_state(read_adapter(directory, int(row["round"]))[0])
    partial = to.parent / f".{to.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        parts.trainer.export(row_configuration(row), partial, format)
        if to.exists():
            to.rmdir()
        partial.replace(to)
    except OSError as error:
        raise InputError(f"--to {to}: cannot be written: {error.strerror or error}") from error
    except SafetensorError as error:
        # Errors of reading name deserializing; they are none of the folder's.
        if "while serializing" not in str(error):
            raise
        raise InputError(f"--to {to}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return row
