"""State of a round: its record, its next set, and its candidates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.checksums import damage
from qsearch.storage.files import (
    read_state,
    write_state,
)
from qsearch.storage.paths import (
    candidates_path,
    damaged_path,
    full_precision_path,
    round_path,
)
from qsearch.storage.study_record import RoundRecord


@dataclass(frozen=True)
class RoundState:
    """A finished round.

    Args:
        record: Its record.
        next_set: The set it passes on.
        trials: How many trials exist by then.
        expected: Estimated loss on the task and its standard deviation by trial, if told apart
            from the losses on the validation examples.
        predicted: What its search predicted of its candidates, as :class:`Candidates` has it.
    """

    record: RoundRecord
    next_set: tuple[int, ...]
    trials: int
    expected: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    predicted: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def write_round(directory: Path, state: RoundState) -> None:
    """Save a finished round; from then on it is never run again."""
    write_state(
        round_path(directory, state.record.round),
        {
            "record": asdict(state.record),
            "next_set": state.next_set,
            "trials": state.trials,
            "expected": dict(state.expected),
            "predicted": dict(state.predicted),
        },
    )


def read_rounds(directory: Path) -> list[RoundState]:
    """Return the finished rounds, in order.

    Raises:
        DamagedFileError: If a round's file is damaged.
    """
    rounds: list[RoundState] = []
    while (path := round_path(directory, len(rounds) + 1)).is_file():
        rounds.append(read_round(path))
    return rounds


def was_finished(directory: Path, round: int) -> bool:
    """Return whether a round was finished once, and must be again: all of its file was damaged."""
    path = round_path(directory, round)
    return not path.is_file() and damaged_path(path).is_file()


def read_round(path: Path) -> RoundState:
    """Return the finished round in a file.

    Raises:
        DamagedFileError: If it is damaged.
    """
    loaded = read_state(path)
    with damage(path, ValueError):
        told = _RoundFile.model_validate_json(json.dumps(loaded))
        return RoundState(told.record, told.next_set, told.trials, told.expected, told.predicted)


_Count = Annotated[int, Field(ge=0)]


class _RoundFile(BaseModel):
    """What ``round-N.json`` holds; files of earlier versions have no checksum to rely on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    record: RoundRecord
    next_set: tuple[_Count, ...]
    trials: _Count
    # Rounds of earlier versions have neither.
    expected: dict[_Count, tuple[float, float]] = {}
    predicted: dict[_Count, tuple[float, float]] = {}


@dataclass(frozen=True)
class Candidates:
    """What a round's search came to.

    Args:
        chosen: Trials to evaluate.
        predicted: What the surrogate predicted of the losses that the chosen ones would be
            observed to have, by trial: mean and standard deviation, nats.
    """

    chosen: tuple[int, ...]
    predicted: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def write_candidates(directory: Path, round: int, candidates: Candidates) -> None:
    """Save what a round's search came to; from then on it is never searched again."""
    write_state(candidates_path(directory, round), asdict(candidates))


@dataclass(frozen=True)
class FullPrecision:
    """What a round's model scores where nothing is quantized; None if that failed."""

    evaluation: Evaluation | None


def write_full_precision(directory: Path, round: int, measured: FullPrecision) -> None:
    """Save what a round's model scores where nothing is quantized."""
    write_state(full_precision_path(directory, round), asdict(measured))


def read_full_precision(path: Path) -> FullPrecision:
    """Return what a round's model scores where nothing is quantized.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    loaded = read_state(path)
    with damage(path, ValueError):
        return TypeAdapter(FullPrecision).validate_python(loaded)


def predicted_losses(directory: Path, round: int) -> Mapping[int, tuple[float, float]]:
    """Return what a round's search predicted of its candidates, if it has come to its end."""
    path = candidates_path(directory, round)
    return read_candidates(path).predicted if path.is_file() else {}


def read_candidates(path: Path) -> Candidates:
    """Return what a round's search came to.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    loaded = read_state(path)
    with damage(path, AttributeError, KeyError, TypeError, ValueError):
        predicted = {
            int(number): (float(mean), float(std))
            for number, (mean, std) in loaded["predicted"].items()
        }
        return Candidates(tuple(map(int, loaded["chosen"])), predicted)
