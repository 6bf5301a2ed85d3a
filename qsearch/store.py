"""A study's directory: what lies where, its measurements and its finished rounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays

from qsearch.errors import InputError, QsearchError
from qsearch.records import STUDY_FILE, RoundRecord, write_atomically, write_json
from qsearch.space import Floats
from qsearch.training_state import adapter_path

STUDY_YAML = "study.yaml"
DATABASE = "study.db"
LOG = "log.jsonl"
QUANTIZATION_ERROR = "quantization_error"
IDENTITY = "state/identity.json"


def prepare_directory(directory: Path) -> None:
    """Make a study directory and prove that it can be written.

    Raises:
        InputError: If it cannot be made or written.
    """
    try:
        (directory / "state").mkdir(parents=True, exist_ok=True)
        write_atomically(directory / ".writable", lambda path: path.write_text("yes"))
        (directory / ".writable").unlink()
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be written: {error.strerror or error}; give another --out"
        ) from error


def has_results(directory: Path) -> bool:
    """Return whether a study directory holds anything that was measured or put into a database.

    The quantization error is measured first; the others tell of it where that file was deleted.
    """
    results = (
        _measurement_path(directory, QUANTIZATION_ERROR),
        adapter_path(directory, 0),
        directory / IDENTITY,
        directory / DATABASE,
        directory / STUDY_FILE,
    )
    return any(path.is_file() for path in results)


def read_measurement(directory: Path, name: str) -> Floats | None:
    """Return what was measured of the layers and saved under a name, if it was.

    Raises:
        QsearchError: If the file is damaged.
    """
    path = _measurement_path(directory, name)
    if not path.is_file():
        return None
    try:
        return load_arrays(path)[name]
    except (SafetensorError, KeyError, OSError) as error:
        raise QsearchError(
            f"{path}: damaged: {error}; delete it, and the same command measures it again"
        ) from error


def write_measurement(directory: Path, name: str, values: Floats) -> None:
    """Save what was measured of the layers, since that is costly for large models."""
    arrays = {name: np.ascontiguousarray(values)}
    write_atomically(_measurement_path(directory, name), lambda path: save_arrays(arrays, path))


def delete_measurement(directory: Path, name: str) -> None:
    """Forget a measurement, if there is one."""
    _measurement_path(directory, name).unlink(missing_ok=True)


def _measurement_path(directory: Path, name: str) -> Path:
    return directory / "state" / f"{name}.safetensors"


@dataclass(frozen=True)
class RoundState:
    """A finished round.

    Args:
        record: Its record.
        next_set: The set it passes on.
        trials: How many trials exist by then.
        expected: Expected loss on the task and its standard deviation by trial, if told apart
            from the losses on the validation examples.
    """

    record: RoundRecord
    next_set: tuple[int, ...]
    trials: int
    expected: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def write_round(directory: Path, state: RoundState) -> None:
    """Save a finished round; from then on it is never run again."""
    record = {key: getattr(state.record, key) for key in RoundRecord.__dataclass_fields__}
    write_json(
        directory / "state" / f"round-{state.record.round}.json",
        {
            "record": record,
            "next_set": state.next_set,
            "trials": state.trials,
            "expected": dict(state.expected),
        },
    )


def read_rounds(directory: Path) -> list[RoundState]:
    """Return the finished rounds, in order.

    Raises:
        QsearchError: If a round's file is damaged.
    """
    rounds: list[RoundState] = []
    while (path := directory / "state" / f"round-{len(rounds)}.json").is_file():
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
            record = loaded["record"]
            for name in ("training_set", "train_losses"):
                record[name] = tuple(record[name])
            found = loaded.get("expected", {})  # Rounds of earlier versions have none.
            expected = {int(number): (mean, error) for number, (mean, error) in found.items()}
            rounds.append(
                RoundState(
                    RoundRecord(**record), tuple(loaded["next_set"]), loaded["trials"], expected
                )
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise QsearchError(f"{path}: damaged round state: {error}") from error
    return rounds


def candidates_path(directory: Path, round: int) -> Path:
    """Return the file that names a round's candidates once all are found."""
    return directory / "state" / f"candidates-{round}.json"
