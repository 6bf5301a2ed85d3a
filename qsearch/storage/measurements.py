"""What was measured in a study, one array a file: free of Ax and PyTorch, for reports too.

A damaged file is a DamagedFileError.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from qsearch._arrays import Floats
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.speed import SpeedTable
from qsearch.storage.checksums import damage, read_checked
from qsearch.storage.paths import (
    FOOTPRINT_FILE,
    SPEED_FILE,
    layer_scores_name,
    measurement_path,
)
from qsearch.storage.state_file import StateFile
from qsearch.storage.tensor_files import write_tensors

_FOOTPRINT = StateFile(Footprint)
_SPEED = StateFile(SpeedTable)


def write_measurement(directory: Path, name: str, values: Floats) -> None:
    """Save what was measured, since measuring is costly for large models."""
    tensors = {name: np.ascontiguousarray(values)}
    write_tensors(measurement_path(directory, name), lambda header: save(tensors, header), {})


def read_measurement(directory: Path, name: str) -> Floats | None:
    """Return what was measured and saved under a name, if it was."""
    path = measurement_path(directory, name)
    if not path.exists():
        return None
    with damage(path, SafetensorError, KeyError, ValueError, OSError):
        values: Floats = load(read_checked(path))[name]
        return values


def read_layer_scores(directory: Path, round: int, shape: tuple[int, int]) -> Floats | None:
    """Return the predicted rise of the loss when a layer alone gets a choice, nats.

    It is under the adapter of the round (layers × choices); None if it was not saved for these
    layers and choices.
    """
    name = layer_scores_name(round)
    values = read_measurement(directory, name)
    if values is None or values.shape != shape:  # Of another form is of another study.
        return None
    with damage(measurement_path(directory, name), ValueError):
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
    return values


def write_footprint(directory: Path, footprint: Footprint) -> None:
    """Write a study's footprint into its directory."""
    _FOOTPRINT.write(directory / FOOTPRINT_FILE, footprint)


def read_footprint(directory: Path) -> Footprint | None:
    """Return a study's footprint, or None if its trainer reports none."""
    path = directory / FOOTPRINT_FILE
    if not path.exists():
        return None
    footprint = _FOOTPRINT.read(path)
    with damage(path, ValueError):
        sizes = asdict(footprint)
        running = sizes.pop("running") or {}
        if footprint.quantized_weights < 1 or min(*sizes.values(), *running.values()) < 0:
            raise ValueError("it holds sizes that no model has")
    return footprint


def write_speed(directory: Path, table: SpeedTable) -> None:
    """Write how fast a study's configurations are into its directory."""
    _SPEED.write(directory / SPEED_FILE, table)


def read_speed(directory: Path) -> SpeedTable | None:
    """Return how fast a study's configurations are, or None if it was not measured."""
    path = directory / SPEED_FILE
    if not path.exists():
        return None
    table = _SPEED.read(path)
    with damage(path, ValueError):
        numbers = [table.other_generation, table.other_prompt]
        numbers += [row.generation for row in table.products]
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError("it holds times that nothing takes")
    return table
