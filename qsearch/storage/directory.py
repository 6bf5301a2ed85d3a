"""A study's directory: what lies where, and its finished rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qsearch.errors import DamagedFileError, InputError
from qsearch.spec.study_spec import StudySpec, dump_spec, load_spec
from qsearch.storage.checksums import require_text_file, with_checksum
from qsearch.storage.files import (
    write_atomically,
    write_keeping_previous,
)
from qsearch.storage.paths import (
    DATABASE,
    IDENTITY,
    QUANTIZATION_ERROR,
    STUDY_FILE,
    STUDY_YAML,
    adapter_path,
    measurement_path,
    previous_path,
)


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
        overrides: As of :func:`qsearch.spec.study_spec.load_spec`.

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
