"""A study's directory: made, claimed and read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qsearch.errors import DamagedFileError, InputError
from qsearch.spec.study_spec import StudySpec, dump_spec, load_spec
from qsearch.storage.bounded_reading import MAX_STATE
from qsearch.storage.checksums import read_checked, yaml_with_checksum
from qsearch.storage.files import cannot_write, write_bytes
from qsearch.storage.paths import STUDY_YAML, study_files


def prepare_directory(directory: Path) -> None:
    """Make a study directory, which another process may do at the same time.

    Raises:
        InputError: If it cannot be made, or has a name that some libraries refuse.
        QsearchError: If the disk is full.
    """
    try:
        str(directory).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{directory}: its name is not UTF-8; give another --out") from error
    try:
        (directory / "state").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(directory, error) from error


def has_results(directory: Path) -> bool:
    """Return whether a study directory holds anything that was measured or put into a database."""
    return any(kind.is_result for kind in study_files(directory).values())


def write_study_yaml(directory: Path, spec: StudySpec) -> None:
    """Write the resolved study into its directory."""
    write_bytes(directory / STUDY_YAML, yaml_with_checksum(dump_spec(spec)))


def read_study_yaml(path: Path) -> StudySpec:
    """Return the study in ``study.yaml``; InputError if this version refuses it."""
    read_checked(path, MAX_STATE)
    return load_spec(path, resolved=True)


def load_study_file(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read the study that a user names, which may be the ``study.yaml`` of a study directory.

    Overrides and errors are those of :func:`qsearch.spec.study_spec.load_spec`.
    """
    if path.name == STUDY_YAML and path.is_file() and has_results(path.parent):
        try:
            read_checked(path, MAX_STATE)
        except DamagedFileError as error:
            raise InputError(
                f"{error}. To change a study, edit a copy of its file that is elsewhere"
            ) from error
    return load_spec(path, overrides)
