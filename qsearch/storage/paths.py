"""Files of a study directory: their names and places."""

from __future__ import annotations

from pathlib import Path

PREVIOUS = ".previous"
"""What the name of a file's previous version ends with."""


def previous_path(path: Path) -> Path:
    """Return where a file's previous version is kept."""
    return path.with_name(f"{path.name}{PREVIOUS}")


def damaged_path(path: Path) -> Path:
    """Return where a damaged file is moved to."""
    return path.with_name(f"{path.name}.damaged")


STUDY_YAML = "study.yaml"


DATABASE = "study.db"


LOG = "log.jsonl"


IDENTITY = "state/identity.json"


def round_path(directory: Path, round: int) -> Path:
    """Return the file that a round has once it is finished."""
    return directory / "state" / f"round-{round}.json"


def candidates_path(directory: Path, round: int) -> Path:
    """Return the file that names a round's candidates once all are found."""
    return directory / "state" / f"candidates-{round}.json"


def full_precision_path(directory: Path, round: int) -> Path:
    """Return where it is saved what a round's model scores without quantization."""
    return directory / "state" / f"full_precision-{round}.json"


CLOCK = "state/clock.json"


STATUS_FILE = "state/status.json"


LOCK = "state/lock"


STUDY_FILE = "state/study.json"


TRIALS_FILE = "trials.parquet"


SESSIONS = "state/sessions.json"


FOOTPRINT_FILE = "state/footprint.json"


QUANTIZATION_ERROR = "quantization_error"
"""Relative squared error ‖W−W̃‖²/‖W‖² of each layer (layers × choices)."""


def sensitivity_name(round: int) -> str:
    """Return the name of the sensitivities of a round (layers)."""
    return f"sensitivity-{round}"


def layer_scores_name(round: int) -> str:
    """Return the name of the layers' scores of a round (layers × choices)."""
    return f"layer_scores-{round}"


def measurement_path(directory: Path, name: str) -> Path:
    """Return where a measurement is saved."""
    return directory / "state" / f"{name}.safetensors"


def adapter_path(directory: Path, round: int) -> Path:
    """Return where the adapter of a round is saved."""
    return directory / "state" / f"adapter-{round}.safetensors"


def checkpoint_path(directory: Path, round: int) -> Path:
    """Return where the state of a round's unfinished training is saved."""
    return directory / "state" / f"training-{round}.safetensors"
