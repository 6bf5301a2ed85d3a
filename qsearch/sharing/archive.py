"""A study as one file, that can be opened elsewhere and resumed with any database.

An archive is a zip file with the study's files and a manifest that has the SHA-256 of each. It may
come from anywhere, so nothing in it is trusted before it is checked: only files of a study have a
place, their sizes have a bound, and an archive that is refused leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict

from qsearch._distribution import DISTRIBUTION
from qsearch._text import in_one_line
from qsearch.errors import InputError, QsearchError
from qsearch.storage.directory import read_study_yaml
from qsearch.storage.files import cannot_write, write_atomically
from qsearch.storage.lock import reading_lock
from qsearch.storage.paths import IDENTITY, RESTORED, STUDY_YAML, kind_of, study_files
from qsearch.storage.session_files import read_identity

MANIFEST = "manifest.json"

_CHUNK = 2**20
_MAX_FILES = 20_000
_MAX_MANIFEST = 2**24
_MAX_GROWTH = 100
_ALWAYS_ALLOWED = 2**26
"""Bytes that all files may take; more if the archive grows at most ``_MAX_GROWTH`` times."""
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ARRAYS = (".safetensors", ".parquet")


class _Manifest(BaseModel):
    """What an archive says of itself: who wrote it, and SHA-256 of its files by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1]
    qsearch: str
    files: dict[str, str]


def archive_study(directory: Path, archive: Path) -> None:
    """Write a study that does not run into one file, which does not exist.

    Nothing is written next to the study: its disk may be full, or read-only. Evaluations that a
    killed process had not yet written to ``trials.parquet`` are made again after restoring.
    """
    if not (directory / STUDY_YAML).is_file():
        raise InputError(f"{directory} holds no study: {directory / STUDY_YAML} is missing")
    if archive.exists():
        raise InputError(f"{archive} exists; give another file by --to")
    with reading_lock(directory):
        read_study_yaml(directory / STUDY_YAML)
        read_identity(directory / IDENTITY)
        try:
            write_atomically(archive, lambda path: _write(path, directory))
        except OSError as error:
            raise cannot_write(archive, error, "--to") from error


def _write(path: Path, directory: Path) -> None:
    digests = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [name for name, kind in study_files(directory).items() if kind.archived]:
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o644 << 16
            # Arrays hardly get smaller, and take long.
            info.compress_type = _COMPRESSIONS[not name.endswith(_ARRAYS)]
            with (
                (directory / name).open("rb") as stream,
                archive.open(info, "w", force_zip64=True) as member,
            ):
                digests[name] = _copy(stream, member)
        manifest = _Manifest(format=1, qsearch=metadata.version(DISTRIBUTION), files=digests)
        archive.writestr(MANIFEST, json.dumps(manifest.model_dump(), indent=1))


def _copy(stream: IO[bytes], to: IO[bytes]) -> str:
    """Copy a stream; return its SHA-256."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        to.write(chunk)
        digest.update(chunk)
    return digest.hexdigest()


def restore_archive(archive: Path, directory: Path) -> str:
    """Unpack an archived study into a new or empty directory; return the study's name.

    Its database is made when it is run. An archive that is refused changes nothing.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} exists and is not an empty folder; give another --to")
    try:
        with _new_folder(directory) as folder:
            _unpack(archive, folder)
            return _require_study(folder)
    # A hostile archive can make a library raise anything.
    except Exception as error:
        reason = in_one_line(error, 500) or type(error).__name__
        raise InputError(f"{archive}: cannot be restored: {reason}") from error


@contextlib.contextmanager
def _new_folder(directory: Path) -> Iterator[Path]:
    """Give a folder that becomes a directory when all of it is written, or vanishes."""
    folder = directory.parent / f".{directory.name}.restoring-{secrets.token_hex(6)}"
    (folder / "state").mkdir(parents=True)
    try:
        yield folder
        (folder / RESTORED).touch()
        folder.replace(directory)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(path: Path, folder: Path) -> None:
    """Check an archive, and write its files into a folder."""
    with zipfile.ZipFile(path) as archive:
        members = _members(archive)
        total = sum(info.file_size for info in members.values())
        limit = max(_ALWAYS_ALLOWED, _MAX_GROWTH * path.stat().st_size)
        if total > limit:
            raise ValueError(f"its files take {total} bytes; at most {limit} are unpacked from it")
        manifest = members.pop(MANIFEST)
        if manifest.file_size > _MAX_MANIFEST:
            raise ValueError(f"its manifest has {manifest.file_size} bytes")
        digests = _Manifest.model_validate_json(archive.read(manifest)).files
        if members.keys() != digests.keys():
            name = min(members.keys() ^ digests.keys())
            raise ValueError(f"{name[:200]!r} is in its manifest or in the archive, but not both")
        for name, info in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as member, (folder / name).open("xb") as file:
                if _copy(member, file) != digests[name]:
                    raise ValueError(f"{name!r} in it is damaged: its SHA-256 differs")


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return an archive's members by name: files of a study alone, each once."""
    infos = archive.infolist()
    if len(infos) > _MAX_FILES:
        raise ValueError(f"it has {len(infos)} files; a study has at most {_MAX_FILES}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name, kind = info.orig_filename, kind_of(info.orig_filename)
        if name != MANIFEST and not (kind and kind.archived):
            raise ValueError(f"it holds {name[:200]!r}, which is not a file of a study")
        if name != info.filename or stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ValueError(f"{name!r} in it is not a plain file")
        if info.flag_bits & 1 or info.compress_type not in _COMPRESSIONS:
            raise ValueError(f"{name!r} in it is encrypted, or compressed in an unknown way")
        if name in members:
            raise ValueError(f"it holds {name!r} twice")
        members[name] = info
    missing = {MANIFEST, STUDY_YAML, IDENTITY} - members.keys()
    if missing:
        raise ValueError(f"it is not an archive of a study: it lacks {', '.join(sorted(missing))}")
    return members


def _require_study(folder: Path) -> str:
    """Return the name of the study in a folder, which must have what every study has."""
    try:
        read_identity(folder / IDENTITY)
        return read_study_yaml(folder / STUDY_YAML).name
    except QsearchError as error:
        raise ValueError(str(error).replace(f"{folder}/", "")) from error
