"""What was measured in a study, one array a file: free of Ax and PyTorch, for reports too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file as save_arrays

from qsearch._arrays import Floats
from qsearch.errors import DamagedFileError
from qsearch.plugins.footprint import Footprint
from qsearch.storage.bounded_reading import open_regular
from qsearch.storage.checksums import (
    CHECKSUM,
    TensorBytes,
    damage,
    require_header,
    tensors_checksum,
)
from qsearch.storage.files import (
    read_or_previous,
    read_state,
    to_standard_error,
    write_atomically,
    write_state,
    written_anew_by_a_run,
)
from qsearch.storage.paths import (
    FOOTPRINT_FILE,
    QUANTIZATION_ERROR,
    layer_scores_name,
    measurement_path,
    sensitivity_name,
)


def read_measurement(directory: Path, name: str) -> Floats | None:
    """Return what was measured and saved under a name, if it was.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    path = measurement_path(directory, name)
    return read_measurement_file(path) if path.is_file() else None


def read_measurement_file(path: Path) -> Floats:
    """Return the measurement in a file that has its name.

    Raises:
        DamagedFileError: If it is damaged.
    """
    with damage(path, SafetensorError, KeyError, ValueError, OSError):
        with open_regular(path), safe_open(path, framework="numpy") as stream:
            values: Floats = stream.get_tensor(path.stem)
            require_header(stream.metadata() or {}, _content(path.stem, values))
        return values


def write_measurement(directory: Path, name: str, values: Floats) -> None:
    """Save what was measured, since measuring is costly for large models."""
    array = np.ascontiguousarray(values)
    header = {CHECKSUM: tensors_checksum(_content(name, array), {})}
    path = measurement_path(directory, name)
    write_atomically(path, lambda own: save_arrays({name: array}, own, metadata=header))


def _content(name: str, array: Floats) -> list[TensorBytes]:
    return [TensorBytes(name, str(array.dtype), array.shape, array.tobytes())]


def delete_measurement(directory: Path, name: str) -> None:
    """Forget a measurement, if there is one."""
    measurement_path(directory, name).unlink(missing_ok=True)


def read_layer_scores(
    directory: Path,
    round: int,
    shape: tuple[int, int],
    note: Callable[[str], None] = to_standard_error,
) -> Floats | None:
    """Return the predicted rise of the loss when a layer alone gets a choice (layers × choices).

    It is in nats, under the adapter of a round. Of a round that an earlier version of qsearch ran,
    it is the quantization error times the sensitivity, where both were saved.

    Args:
        directory: The study's directory.
        round: Index of the round.
        shape: Number of layers and of choices.
        note: Told of a file that cannot be used.

    Returns:
        None if neither was saved for these layers and choices, or it cannot be used.
    """
    try:
        found = _read(directory, layer_scores_name(round), shape)
        if found is not None:
            return found
        error = _read(directory, QUANTIZATION_ERROR, shape)
        sensitivity = _read(directory, sensitivity_name(round), shape[:1])
    except DamagedFileError as problem:
        note(f"{problem}; scores of layers are left out")
        return None
    if error is None or sensitivity is None:
        return None
    product: Floats = error * sensitivity[:, None]
    return product


def _read(directory: Path, name: str, shape: tuple[int, ...]) -> Floats | None:
    values = read_measurement(directory, name)
    if values is None or values.shape != shape:  # Of another form is of another study.
        return None
    if not np.isfinite(values).all():
        raise DamagedFileError(f"{measurement_path(directory, name)}: holds values not finite")
    return values


def write_footprint(directory: Path, footprint: Footprint) -> None:
    """Write a study's footprint into its directory."""
    write_state(directory / FOOTPRINT_FILE, asdict(footprint))


def read_footprint(
    directory: Path, note: Callable[[str], None] = to_standard_error
) -> Footprint | None:
    """Return a study's footprint, or None if its trainer does not tell it.

    Args:
        directory: The study's directory.
        note: Told of a damaged file whose previous version is read in its place.

    Raises:
        InputError: If the file cannot be read.
    """
    path = directory / FOOTPRINT_FILE
    if not path.is_file():
        return None
    with written_anew_by_a_run():
        return read_or_previous(path, read_footprint_file, note)


def read_footprint_file(path: Path) -> Footprint:
    """Return what ``state/footprint.json``, or another version of it, holds.

    Raises:
        DamagedFileError: If it is damaged.
    """
    loaded = read_state(path)
    with damage(path, TypeError, ValueError):
        footprint = Footprint(**loaded)
        for name, value in asdict(footprint).items():
            if type(value) is not int or value < (name == "quantized_weights"):
                raise ValueError(f"{name} is {value!r}")
        return footprint
