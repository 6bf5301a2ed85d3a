"""Files of a study directory: their names, and what each one means for a study."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

STUDY_YAML = "study.yaml"
DATABASE = "study.db"
LOG = "log.jsonl"
TRIALS_FILE = "trials.parquet"
STUDY_FILE = "state/study.json"
IDENTITY = "state/identity.json"
SESSIONS = "state/sessions.json"
CLOCK = "state/clock.json"
RECIPES = "state/recipes.json"
FOOTPRINT_FILE = "state/footprint.json"
SPEED_FILE = "state/speed.json"
DATA_FACTS = "state/data_facts.safetensors"
STATUS_FILE = "state/status.json"
OBJECTIVE_FILE = "state/objective.json"
LOCK = "state/lock"
OWNER = "state/owner.json"
EXAMPLES = "state/examples"
EVALUATIONS = "state/evaluations"
RESTORED = "state/restored"
"""Stands in a directory that comes from an archive, until its database is made."""

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


def round_path(directory: Path, round: int) -> Path:
    """Return the file that a round has once it is finished."""
    return directory / "state" / f"round-{round}.json"


def candidates_path(directory: Path, round: int) -> Path:
    """Return the file that names a round's candidates once all are found."""
    return directory / "state" / f"candidates-{round}.json"


def full_precision_path(directory: Path, round: int) -> Path:
    """Return where it is saved what a round's model scores without quantization."""
    return directory / "state" / f"full_precision-{round}.json"


def reference_path(directory: Path, split: str) -> Path:
    """Return where the unquantized model's predictions on a split are kept."""
    return directory / "state" / f"reference-{split}.safetensors"


def reference_examples_path(directory: Path) -> Path:
    """Return where it is kept what each example scored under the unquantized model of the study."""
    return directory / EXAMPLES / "reference.safetensors"


def examples_path(directory: Path, round: int, name: str) -> Path:
    """Return where it is kept what each example scored in an evaluation of a round."""
    return directory / EXAMPLES / f"round-{round:03d}" / f"{name}.safetensors"


def adapter_path(directory: Path, round: int) -> Path:
    """Return where the adapter of a round is saved."""
    return directory / "state" / f"adapter-{round}.safetensors"


def checkpoint_path(directory: Path, round: int) -> Path:
    """Return where the checkpoint of a round's training is saved."""
    return directory / "state" / f"training-{round}.safetensors"


@dataclass(frozen=True)
class FileKind:
    """What files whose path matches a pattern mean for a study.

    ``made_again``: the study makes a deleted file again, with the same results. ``is_result``: the
    file shows that something was measured. ``remake``: what makes a deleted file again.
    """

    pattern: str
    archived: bool = True
    made_again: bool = True
    is_result: bool = False
    remake: str = "run the study again, which makes it again where it needs it"


_N = "[1-9][0-9]{0,5}"
_KINDS = (
    FileKind(STUDY_YAML, made_again=False),
    FileKind(IDENTITY, made_again=False, is_result=True),
    FileKind(f"state/round-{_N}.json", made_again=False, is_result=True),
    FileKind(DATABASE, archived=False, made_again=False, is_result=True),
    FileKind(STUDY_FILE, is_result=True),
    FileKind(f"state/{QUANTIZATION_ERROR}.safetensors", is_result=True),
    FileKind(f"state/adapter-{_N}.safetensors", is_result=True),
    FileKind(f"state/(sensitivity|layer_scores|training)-{_N}.safetensors"),
    FileKind(f"state/(candidates|full_precision)-{_N}.json"),
    FileKind(OBJECTIVE_FILE, made_again=False, is_result=True),
    FileKind(TRIALS_FILE),
    FileKind(LOG),
    FileKind(CLOCK),
    FileKind(SESSIONS),
    FileKind(FOOTPRINT_FILE),
    FileKind(SPEED_FILE, remake="run qsearch measure-speed again"),
    FileKind(RECIPES),
    FileKind(DATA_FACTS),
    FileKind("state/reference-(train|validation|test).safetensors", archived=False),
    FileKind(f"{EXAMPLES}/reference.safetensors"),
    FileKind(f"{EXAMPLES}/round-[0-9]{{3,6}}/(trial-[0-9]{{4,7}}|full-precision).safetensors"),
    FileKind(
        f"{EVALUATIONS}/(validation|test)(-[1-9][0-9]{{0,8}})?"
        "/(trial-[0-9]{4,7}|full-precision|loaded).safetensors",
        remake="evaluate again",
    ),
    FileKind(STATUS_FILE, archived=False),
    FileKind(f"{LOCK}|{OWNER}|{RESTORED}", archived=False),
)
"""All files of a study directory; a report may lie next to them."""


_PATTERNS = ("*", "state/*", f"{EXAMPLES}/*", f"{EXAMPLES}/*/*", f"{EVALUATIONS}/*/*")
"""Where they lie."""


def kind_of(name: str) -> FileKind | None:
    """Return what a path within a study directory means; None if no study has such a file."""
    return next((kind for kind in _KINDS if re.fullmatch(kind.pattern, name)), None)


def study_files(directory: Path) -> dict[str, FileKind]:
    """Return the files of a study that are in its directory, by path within it."""
    paths = (path for pattern in _PATTERNS for path in directory.glob(pattern))
    names = sorted(path.relative_to(directory).as_posix() for path in paths if path.is_file())
    return {name: kind for name in names if (kind := kind_of(name))}


def remedy(path: Path) -> str:
    """Return what to do about a damaged file of a study."""
    kinds = ("/".join(path.parts[-depth:]) for depth in (1, 2, 3, 4))
    kind = next((kind for name in kinds if (kind := kind_of(name))), None)
    if kind is None or not kind.made_again:
        return "it cannot be made again: restore it, or the whole directory, from a copy"
    return f"delete it, then {kind.remake}"
