"""State of a round: its record, its next set, and its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from qsearch.errors import DamagedFileError
from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.paths import candidates_path, remedy, round_path
from qsearch.storage.state_file import StateFile
from qsearch.storage.study_record import RoundRecord

Trial = Annotated[int, Field(ge=0)]
"""Number of a trial."""


@dataclass(frozen=True)
class RoundState:
    """A finished round.

    Args:
        trials: How many trials exist by then.
        estimated: Estimated loss on the task and its standard deviation by trial, if sampling noise
            is modelled.
        predicted: What its search predicted of its candidates, as :class:`Candidates` has it.
    """

    record: RoundRecord
    next_set: tuple[Trial, ...]
    trials: Trial
    estimated: Mapping[Trial, tuple[float, float]] = field(default_factory=dict)
    predicted: Mapping[Trial, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidates:
    """What a round's search came to.

    Args:
        chosen: Trials to evaluate.
        predicted: What the surrogate predicted of the losses that the chosen ones would be
            observed to have, by trial: mean and standard deviation, nats.
        configurations: The trials that the round's search found, as JSON of a
            :class:`~qsearch.space.configuration.Configuration`, so that those without a result can
            be put into another database.
    """

    chosen: tuple[Trial, ...]
    predicted: Mapping[Trial, tuple[float, float]] = field(default_factory=dict)
    configurations: Mapping[Trial, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FullPrecision:
    """What a round's model scores where nothing is quantized; None if that failed."""

    evaluation: Evaluation | None


ROUND = StateFile(RoundState)
CANDIDATES = StateFile(Candidates)
FULL_PRECISION = StateFile(FullPrecision)


def write_round(directory: Path, state: RoundState) -> None:
    """Save a finished round; from then on it is never run again."""
    ROUND.write(round_path(directory, state.record.round), state)


def read_rounds(directory: Path) -> list[RoundState]:
    """Return the finished rounds, in order; DamagedFileError if one before another is missing."""
    files = {path.name for path in (directory / "state").glob("round-*.json")}
    rounds: list[RoundState] = []
    while files:
        path = round_path(directory, len(rounds) + 1)
        if path.name not in files:
            raise DamagedFileError(f"{path}: is missing; {remedy(path)}")
        files.remove(path.name)
        rounds.append(ROUND.read(path))
    return rounds


def predicted_losses(directory: Path, round: int) -> Mapping[int, tuple[float, float]]:
    """Return what a round's search predicted of its candidates, if it has come to its end."""
    path = candidates_path(directory, round)
    return CANDIDATES.read(path).predicted if path.is_file() else {}
