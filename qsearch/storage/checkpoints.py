"""What training leaves in a study's directory: each round's adapter, and an unfinished round."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qsearch.errors import DamagedFileError
from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import TrainerState
from qsearch.storage.bounded_reading import open_regular
from qsearch.storage.checksums import (
    CHECKSUM,
    TensorBytes,
    damage,
    require_header,
    tensors_checksum,
)
from qsearch.storage.files import delete, write_atomically, write_keeping_previous
from qsearch.storage.paths import adapter_path, checkpoint_path, previous_path

_DAMAGE = (SafetensorError, AttributeError, KeyError, TypeError, ValueError, OSError)
_AGAIN = "running the study again, as it was run, makes it anew"


def write_adapter(directory: Path, round: int, state: TrainerState, report: TrainReport) -> None:
    """Save a round's trained adapter and its report in one file, so that both exist or neither."""
    header = {
        "state": json.dumps(dict(state.metadata)),
        "report": json.dumps(
            {
                "steps": report.steps,
                "seconds": report.seconds,
                "losses": report.losses,
                "details": dict(report.details),
            }
        ),
    }
    _write(adapter_path(directory, round), state.tensors, header)


def read_adapter(directory: Path, round: int) -> tuple[TrainerState, TrainReport]:
    """Load what :func:`write_adapter` saved.

    Raises:
        DamagedFileError: If the file is missing or damaged.
    """
    path = adapter_path(directory, round)
    if not path.is_file():
        raise DamagedFileError(f"{path}: is missing; {_AGAIN}")
    try:
        return read_adapter_file(path)
    except DamagedFileError as error:
        raise DamagedFileError(f"{error}; {_AGAIN}") from error


def read_adapter_file(path: Path) -> tuple[TrainerState, TrainReport]:
    """Return the adapter and the report in a file.

    Raises:
        DamagedFileError: If it is damaged.
    """
    with damage(path, *_DAMAGE):
        tensors, header = _read(path)
        report = json.loads(header["report"])
        report["losses"] = tuple(report["losses"])
        return TrainerState(tensors, json.loads(header["state"])), TrainReport(**report)


def read_checkpoint(directory: Path, round: int) -> TrainingCheckpoint:
    """Return where the state of a round's unfinished training is kept.

    Of a damaged file, the version before is taken; without one the round's training begins again.
    The result is the same.
    """
    path = checkpoint_path(directory, round)

    def load() -> TrainerState | None:
        for version in (path, previous_path(path)):
            with contextlib.suppress(DamagedFileError, FileNotFoundError):
                return read_checkpoint_file(version)
        return None

    def save(state: TrainerState) -> None:
        header = {"state": json.dumps(dict(state.metadata))}
        _write(path, state.tensors, header, write_keeping_previous)

    return TrainingCheckpoint(load, save)


def read_checkpoint_file(path: Path) -> TrainerState:
    """Return the state of an unfinished training in a file.

    Raises:
        DamagedFileError: If it is damaged.
        FileNotFoundError: If it is missing.
    """
    with damage(path, *_DAMAGE):
        tensors, header = _read(path)
        return TrainerState(tensors, json.loads(header["state"]))


def delete_checkpoint(directory: Path, round: int) -> None:
    """Delete the state of a round whose training is finished."""
    delete(checkpoint_path(directory, round))


def _write(
    path: Path,
    tensors: Mapping[str, Tensor],
    header: dict[str, str],
    write: Callable[[Path, Callable[[Path], object]], None] = write_atomically,
) -> None:
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    header = {**header, CHECKSUM: tensors_checksum(_contents(plain), header)}
    write(path, lambda temporary: save_file(plain, temporary, metadata=header))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with open_regular(path), safe_open(path, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        header: dict[str, str] = stream.metadata() or {}
    require_header(header, _contents(tensors))
    return tensors, header


def _contents(tensors: Mapping[str, Tensor]) -> Iterator[TensorBytes]:
    for name, tensor in tensors.items():
        content = tensor.reshape(-1).view(torch.uint8).numpy()
        yield TensorBytes(name, str(tensor.dtype), tensor.shape, content)
