"""A study's directory: what lies where, and its finished rounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from qsearch.errors import DamagedFileError, InputError
from qsearch.measurements import QUANTIZATION_ERROR, measurement_path
from qsearch.records import STUDY_FILE, RoundRecord
from qsearch.spec import StudySpec, dump_spec, load_spec
from qsearch.state_files import (
    damage,
    damaged_path,
    previous_path,
    read_state,
    require_text_file,
    with_checksum,
    write_atomically,
    write_keeping_previous,
    write_state,
)
from qsearch.training_state import adapter_path

STUDY_YAML = "study.yaml"
DATABASE = "study.db"
LOG = "log.jsonl"
IDENTITY = "state/identity.json"


def prepare_directory(directory: Path) -> None:
    """Make a study directory and prove that it can be written.

    Raises:
        InputError: If it cannot be made or written, or has a name that some libraries refuse.
    """
    try:
        str(directory).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{directory}: its name is not UTF-8; give another --out") from error
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
        measurement_path(directory, QUANTIZATION_ERROR),
        adapter_path(directory, 0),
        directory / IDENTITY,
        directory / DATABASE,
        directory / STUDY_FILE,
    )
    return any(path.is_file() for path in results)


def write_study_yaml(directory: Path, spec: StudySpec) -> None:
    """Write the resolved study into its directory."""
    text = with_checksum(dump_spec(spec))
    write_keeping_previous(
        directory / STUDY_YAML, lambda temporary: temporary.write_text(text, encoding="utf-8")
    )


def read_study_yaml(path: Path) -> StudySpec:
    """Return the study in ``study.yaml``, or in another version of it.

    Raises:
        DamagedFileError: If it is damaged.
        InputError: If this version refuses the study.
    """
    require_text_file(path)
    return load_spec(path, resolved=True)


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read the study that a user names, which may be the ``study.yaml`` of a study directory.

    Args:
        path: The YAML file.
        overrides: As of :func:`qsearch.spec.load_spec`.

    Raises:
        InputError: If the file or an override cannot be used.
    """
    if path.name == STUDY_YAML and path.is_file() and has_results(path.parent):
        try:
            require_text_file(path)
        except DamagedFileError as error:
            raise InputError(
                f"{error}; run {previous_path(path)}, which has what it held. To change a study,"
                " edit a copy of it that is elsewhere"
            ) from error
    return load_spec(path, overrides)


@dataclass(frozen=True)
class RoundState:
    """A finished round.

    Args:
        record: Its record.
        next_set: The set it passes on.
        trials: How many trials exist by then.
        expected: Expected loss on the task and its standard deviation by trial, if told apart
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
    while (path := round_path(directory, len(rounds))).is_file():
        rounds.append(read_round(path))
    return rounds


def was_finished(directory: Path, round: int) -> bool:
    """Return whether a round was finished once, and must be again: all of its file was damaged."""
    path = round_path(directory, round)
    return not path.is_file() and damaged_path(path).is_file()


def round_path(directory: Path, round: int) -> Path:
    """Return the file that a round has once it is finished."""
    return directory / "state" / f"round-{round}.json"


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
        screened_out: Trials that screening found not worth it.
        predicted: What the surrogate predicted of the losses that the chosen ones would be
            observed to have, by trial: mean and standard deviation, nats.
    """

    chosen: tuple[int, ...]
    screened_out: tuple[int, ...] = ()
    predicted: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def candidates_path(directory: Path, round: int) -> Path:
    """Return the file that names a round's candidates once all are found."""
    return directory / "state" / f"candidates-{round}.json"


def write_candidates(directory: Path, round: int, candidates: Candidates) -> None:
    """Save what a round's search came to; from then on it is never searched again."""
    write_state(candidates_path(directory, round), asdict(candidates))


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
        if isinstance(loaded, list):  # Of an earlier version.
            loaded = {"chosen": loaded, "screened_out": []}
        chosen, screened_out = loaded["chosen"], loaded["screened_out"]
        predicted = {
            int(number): (float(mean), float(deviation))
            for number, (mean, deviation) in loaded.get("predicted", {}).items()
        }
        return Candidates(tuple(map(int, chosen)), tuple(map(int, screened_out)), predicted)
