"""What a trainer leaves in a study's directory: adapters, a checkpoint, facts of the data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError

from qsearch.errors import DamagedFileError
from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import TrainerState
from qsearch.storage.checksums import damage, read_checked
from qsearch.storage.paths import DATA_FACTS, adapter_path, checkpoint_path, remedy
from qsearch.storage.tensor_files import tensors_header, write_tensors

_DAMAGE = (SafetensorError, AttributeError, KeyError, TypeError, ValueError, OSError)


def write_adapter(directory: Path, round: int, state: TrainerState, report: TrainReport) -> None:
    """Save a round's trained adapter and its report in one file, so that both exist or neither."""
    _write(adapter_path(directory, round), state, {"report": json.dumps(asdict(report))})


def read_adapter(directory: Path, round: int) -> tuple[TrainerState, TrainReport]:
    """Load what :func:`write_adapter` saved; a missing file is a DamagedFileError, too."""
    path = adapter_path(directory, round)
    try:
        with damage(path, *_DAMAGE):
            state, header = _read(path)
            report = json.loads(header["report"])
            return state, TrainReport(**{**report, "losses": tuple(report["losses"])})
    except FileNotFoundError as error:
        again = remedy(path).partition(", then ")[2]
        raise DamagedFileError(f"{path}: is missing; {again}") from error


def read_checkpoint(directory: Path, round: int) -> TrainingCheckpoint:
    """Return where the checkpoint of a round's training is loaded from and saved."""
    path = checkpoint_path(directory, round)

    def load_saved() -> TrainerState | None:
        with damage(path, *_DAMAGE):
            return _read(path)[0] if path.exists() else None

    return TrainingCheckpoint(load_saved, lambda state: _write(path, state, {}))


def write_data_facts(directory: Path, facts: TrainerState) -> None:
    """Save what an export needs of a study's data."""
    _write(directory / DATA_FACTS, facts, {})


def read_data_facts(directory: Path) -> TrainerState | None:
    """Return what :func:`write_data_facts` saved, if it did."""
    path = directory / DATA_FACTS
    with damage(path, *_DAMAGE):
        return _read(path)[0] if path.exists() else None


def delete_checkpoint(directory: Path, round: int) -> None:
    """Delete the checkpoint of a round whose training is finished."""
    checkpoint_path(directory, round).unlink(missing_ok=True)


def _write(path: Path, state: TrainerState, header: Mapping[str, str]) -> None:
    from safetensors.torch import save

    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in state.tensors.items()}
    texts = {**header, "state": json.dumps(dict(state.metadata))}
    write_tensors(path, lambda header: save(plain, header), texts)


def _read(path: Path) -> tuple[TrainerState, dict[str, str]]:
    from safetensors.torch import load

    content = read_checked(path)
    header = tensors_header(content)
    return TrainerState(load(content), json.loads(header["state"])), header
