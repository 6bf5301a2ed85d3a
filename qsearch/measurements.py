"""What was measured in a study, one array a file: free of Ax and PyTorch, for reports too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file as save_arrays

from qsearch.bounded import open_regular
from qsearch.space import Floats
from qsearch.state_files import (
    CHECKSUM,
    TensorBytes,
    damage,
    require_header,
    tensors_checksum,
    write_atomically,
)

QUANTIZATION_ERROR = "quantization_error"
"""Relative squared error ‖W−W̃‖²/‖W‖² of each layer (layers × choices)."""


def sensitivity_name(round: int) -> str:
    """Return the name of the sensitivities of a round (layers)."""
    return f"sensitivity-{round}"


def layer_scores_name(round: int) -> str:
    """Return the name of the layers' scores of a round (layers × choices)."""
    return f"layer_scores-{round}"


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


def measurement_path(directory: Path, name: str) -> Path:
    """Return where a measurement is saved."""
    return directory / "state" / f"{name}.safetensors"
