"""What training leaves in a study's directory: each round's adapter, and an unfinished round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from qsearch.capabilities import UnfinishedTraining
from qsearch.errors import QsearchError
from qsearch.evaluation import TrainReport
from qsearch.plugins import TrainerState
from qsearch.records import write_atomically


def adapter_path(directory: Path, round: int) -> Path:
    """Return where the adapter of a round is saved."""
    return directory / "state" / f"adapter-{round}.safetensors"


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
        QsearchError: If the file is damaged.
    """
    path = adapter_path(directory, round)
    try:
        tensors, header = _read(path)
        report = json.loads(header["report"])
        report["losses"] = tuple(report["losses"])
        return TrainerState(tensors, json.loads(header["state"])), TrainReport(**report)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise QsearchError(f"{path}: damaged adapter: {error}") from error


def unfinished_training(directory: Path, round: int) -> UnfinishedTraining:
    """Return where the state of a round's unfinished training is kept.

    A damaged file counts as none: the round's training then begins again, with the same result.
    """
    path = _unfinished_path(directory, round)

    def load() -> TrainerState | None:
        if not path.is_file():
            return None
        try:
            tensors, header = _read(path)
            return TrainerState(tensors, json.loads(header["state"]))
        except (SafetensorError, KeyError, TypeError, ValueError, OSError):
            return None

    def save(state: TrainerState) -> None:
        _write(path, state.tensors, {"state": json.dumps(dict(state.metadata))})

    return UnfinishedTraining(load, save)


def forget_unfinished_training(directory: Path, round: int) -> None:
    """Delete the state of a round whose training is finished."""
    _unfinished_path(directory, round).unlink(missing_ok=True)


def _unfinished_path(directory: Path, round: int) -> Path:
    return directory / "state" / f"training-{round}.safetensors"


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(plain, temporary, metadata=header))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        return tensors, stream.metadata()
