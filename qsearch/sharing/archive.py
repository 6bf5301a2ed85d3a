"""A study as one file: what an archive holds, and how it is written.

An archive is a zip file with the study's files, its Ax experiment as plain data, and a manifest
that has the size and digest of each. It belongs to no database and holds no URL of one.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from qsearch.errors import DamagedFileError, InputError, StudyBusyError
from qsearch.experiment.lease import read_leases
from qsearch.experiment.loading import read_experiment
from qsearch.experiment.url import (
    database_errors,
    open_engine,
    sqlite_url,
    storage_errors,
    without_password,
)
from qsearch.sharing.archived_experiment import ArchivedExperiment, archived
from qsearch.storage.directory import read_study_yaml
from qsearch.storage.files import write_atomically
from qsearch.storage.lock import reading_lock
from qsearch.storage.paths import DATABASE, IDENTITY, STUDY_YAML
from qsearch.storage.session_files import read_identity

MANIFEST = "manifest.json"
EXPERIMENT = "experiment.json"
STUDY_FILES = re.compile(
    r"(study\.yaml|trials\.parquet|log\.jsonl"
    r"|state/(?!status)[a-z][a-z_]{0,40}(-[0-9]{1,6})?\.(json|safetensors))(\.previous)?"
)
"""The files of a study's directory that an archive may hold. A report is written anew."""

CHUNK = 2**20
_ARRAYS = (".safetensors", ".parquet")


class Member(BaseModel):
    """What a manifest says of a file: its bytes, and their digest."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What an archive says of itself.

    Args:
        format: Version of the archive's form.
        qsearch: Version of qsearch that wrote it.
        study: The study's name.
        files: All other members by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1]
    qsearch: str
    study: str
    files: dict[str, Member]


def archive_study(directory: Path, archive: Path, storage_url: str | None = None) -> None:
    """Write a study that does not run into one file.

    A study that runs is refused: its files and its database change one after the other, and what
    was read between the two could not be resumed. Nothing is written beside the archive, which may
    be how to make room.

    Args:
        directory: The study's directory.
        archive: The file to write; it does not exist.
        storage_url: The database that the study was run with; None is the one in its directory.

    Raises:
        InputError: If the study runs, is not there, or its database is not, or the file cannot be
            written.
    """
    if not (directory / STUDY_YAML).is_file():
        raise InputError(f"{directory} holds no study: {directory / STUDY_YAML} is missing")
    if archive.exists():
        raise InputError(f"{archive} exists; give another file by --to")
    with storage_errors(directory), reading_lock(directory):
        experiment = _read_experiment(directory, storage_url)
        try:
            write_atomically(archive, lambda path: _write(path, directory, experiment))
        except OSError as error:
            raise InputError(f"{archive}: cannot be written: {error.strerror or error}") from error


def _read_experiment(directory: Path, storage_url: str | None) -> ArchivedExperiment:
    """Return the study's experiment from its database."""
    name = read_study_yaml(directory / STUDY_YAML).name
    url = storage_url or sqlite_url(directory / DATABASE)
    shown = f"--storage {without_password(url)!r}" if storage_url else str(directory / DATABASE)
    if storage_url is None and not (directory / DATABASE).is_file():
        raise InputError(f"{shown} is missing; give the --storage that the study was run with")
    engine = open_engine(url, must_exist=True)
    with database_errors(url, shown), engine.connect() as connection:
        lease = read_leases(connection).get(name)
    if lease is not None and lease.is_held():
        raise StudyBusyError(
            f"{shown}: the study {name!r} is being run, by {lease.owner.describe()} in"
            f" {lease.directory}; wait for it"
        )
    try:
        kept = archived(read_experiment(url, name))
    except InputError:
        raise
    except Exception as error:  # Ax has no class of errors for what it cannot load.
        raise InputError(f"{shown}: the experiment {name!r} cannot be read: {error}") from error
    if kept.description != identity_of(directory):
        raise InputError(
            f"{shown}: the experiment {name!r} there belongs to another study directory than"
            f" {directory}; give the --storage that it was run with"
        )
    return kept


def identity_of(directory: Path) -> str:
    """Return how an experiment describes itself that belongs to a study's directory.

    Raises:
        InputError: If the directory does not tell.
    """
    try:
        return f"qsearch study {read_identity(directory / IDENTITY)}"
    except (OSError, DamagedFileError) as error:
        raise InputError(f"{directory / IDENTITY}: cannot be read: {error}") from error


def _write(path: Path, directory: Path, experiment: ArchivedExperiment) -> None:
    files = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(_study_files(directory)):
            with (directory / name).open("rb") as stream:
                files[name] = _add(archive, name, stream)
        text = experiment.model_dump_json()
        files[EXPERIMENT] = _add_text(archive, EXPERIMENT, text)
        manifest = Manifest(
            format=1,
            qsearch=metadata.version("qsearch"),
            study=experiment.name,
            files=files,
        )
        _add_text(archive, MANIFEST, json.dumps(manifest.model_dump(), indent=1))


def _study_files(directory: Path) -> Iterator[str]:
    for path in (*directory.iterdir(), *(directory / "state").iterdir()):
        name = path.relative_to(directory).as_posix()
        if STUDY_FILES.fullmatch(name) and path.is_file():
            yield name


def _add(archive: zipfile.ZipFile, name: str, stream: IO[bytes]) -> Member:
    """Copy a file into an archive."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    # Arrays hardly get smaller, and take long.
    plain = name.removesuffix(".previous").endswith(_ARRAYS)
    info.compress_type = zipfile.ZIP_STORED if plain else zipfile.ZIP_DEFLATED
    digest, size = hashlib.sha256(), 0
    with archive.open(info, "w", force_zip64=True) as member:
        while chunk := stream.read(CHUNK):
            member.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return Member(size=size, sha256=digest.hexdigest())


def _add_text(archive: zipfile.ZipFile, name: str, text: str) -> Member:
    content = text.encode()
    archive.writestr(name, content)
    return Member(size=len(content), sha256=hashlib.sha256(content).hexdigest())
