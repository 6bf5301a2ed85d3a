"""Damaged files of a study: found when it is opened, moved aside, and their versions before used.

What no good version is left of is left out, as if it had never been written: the study then does
again what it came from, with the same result.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qsearch.errors import DamagedFileError
from qsearch.storage.checkpoints import read_adapter_file, read_checkpoint_file
from qsearch.storage.checksums import require_text_file
from qsearch.storage.clock import read_seconds
from qsearch.storage.directory import has_results
from qsearch.storage.files import remove_leftovers, write_atomically
from qsearch.storage.measurements import read_footprint_file, read_measurement_file
from qsearch.storage.paths import (
    CLOCK,
    FOOTPRINT_FILE,
    IDENTITY,
    SESSIONS,
    STUDY_FILE,
    STUDY_YAML,
    TRIALS_FILE,
    adapter_path,
    damaged_path,
    previous_path,
)
from qsearch.storage.round_state import read_candidates, read_full_precision, read_round
from qsearch.storage.session_files import read_identity, read_sessions_file
from qsearch.storage.study_record import read_study_file, read_trials

_READERS: tuple[tuple[str, Callable[[Path], object]], ...] = (
    (STUDY_YAML, require_text_file),
    (TRIALS_FILE, read_trials),
    (STUDY_FILE, read_study_file),
    (IDENTITY, read_identity),
    (CLOCK, read_seconds),
    (SESSIONS, read_sessions_file),
    (FOOTPRINT_FILE, read_footprint_file),
    ("state/round-*.json", read_round),
    ("state/candidates-*.json", read_candidates),
    ("state/adapter-*.safetensors", read_adapter_file),
    ("state/training-*.safetensors", read_checkpoint_file),
    ("state/quantization_error.safetensors", read_measurement_file),
    ("state/sensitivity-*.safetensors", read_measurement_file),
    ("state/full_precision-*.json", read_full_precision),
    ("state/layer_scores-*.safetensors", read_measurement_file),
)
_ROUND = re.compile(r"round-(\d+)\.json")


@dataclass(frozen=True)
class Damage:
    """A damaged file that was moved aside.

    Args:
        file: Its path within the study's directory.
        used: The version that takes its place; None if what it held is made again if needed.
        reason: What is wrong with it.
    """

    file: str
    used: str | None
    reason: str


def repair(directory: Path) -> list[Damage]:
    """Remove what killed processes left half written, and repair what is damaged.

    Args:
        directory: The study's directory, whose lock this process holds.

    Returns:
        What was damaged.

    Raises:
        DamagedFileError: If a file is damaged that nothing else says the content of.
    """
    for folder in (directory, directory / "state"):
        remove_leftovers(folder)
    found = []
    for pattern, read in _READERS:
        for path in sorted(directory.glob(pattern)):
            try:
                read(path)
            except DamagedFileError as error:
                found.append(_replace(directory, path, read, error))
    return found


def _replace(
    directory: Path, path: Path, read: Callable[[Path], object], error: DamagedFileError
) -> Damage:
    """Move a damaged file aside, and put its previous version in its place if that is good."""
    previous = previous_path(path)
    try:
        read(previous)
    except (DamagedFileError, OSError):
        if _is_needed(directory, path):
            raise DamagedFileError(
                f"{error}; nothing else holds what it held: restore the file, or the whole"
                " directory, from a copy"
            ) from error
        path.replace(damaged_path(path))
        return Damage(_shown(directory, path), None, str(error))
    # The file is never missing, so that killing this process does no harm.
    aside = damaged_path(path)
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:
        shutil.copyfile(path, aside)
    write_atomically(path, lambda temporary: shutil.copyfile(previous, temporary))
    return Damage(_shown(directory, path), _shown(directory, previous), str(error))


def _shown(directory: Path, path: Path) -> str:
    return path.relative_to(directory).as_posix()


def _is_needed(directory: Path, path: Path) -> bool:
    """Return whether a study cannot go on without a file that no good version is left of."""
    if path == directory / STUDY_YAML:
        return has_results(directory)
    finished = _ROUND.fullmatch(path.name)
    if finished:
        # Its evaluations are in the database, but so are those of a later round.
        later = adapter_path(directory, int(finished[1]) + 1)
        return any(later.parent.glob(f"{later.name}*"))
    return path == directory / IDENTITY
