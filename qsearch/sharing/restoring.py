"""An archive opened on another machine: checked, unpacked, and put into a database.

Archives come from anywhere, so nothing in one is believed before it was checked: only files of a
study have a place, none is larger than told, and nothing is left behind by an archive that is
refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ax.core.experiment import Experiment
from ax.storage.sqa_store.save import save_experiment
from pydantic import BaseModel, ValidationError
from sqlalchemy import inspect, text

from qsearch.errors import InputError, QsearchError
from qsearch.experiment.database import Database
from qsearch.experiment.lease import study_lease
from qsearch.experiment.node import registry_bundle
from qsearch.experiment.url import database_errors, open_engine, sqlite_url, without_password
from qsearch.sharing.archive import (
    CHUNK,
    EXPERIMENT,
    MANIFEST,
    STUDY_FILES,
    Manifest,
    Member,
    identity_of,
)
from qsearch.sharing.archived_experiment import ArchivedExperiment, to_ax
from qsearch.storage.directory import read_study_yaml
from qsearch.storage.paths import DATABASE, IDENTITY, STUDY_YAML

_Model = TypeVar("_Model", bound=BaseModel)

_MAX_MEMBERS = 20_000
_MAX_MANIFEST = 2**24
"""Bytes of the manifest, which is read into memory before any size is checked."""
_MAX_EXPERIMENT = 2**28
"""Bytes of the experiment, which is read into memory too."""
_MAX = 2**36
"""Bytes of all files together."""
_MAX_GROWTH = 100
_ALWAYS_ALLOWED = 2**26
"""Bytes that all files may take, whatever the archive's size; more, if it grows no more than
:data:`_MOST_GROWTH` times."""


def restore_archive(archive: Path, directory: Path, storage_url: str | None = None) -> str:
    """Unpack a study that was archived, so that it can be read, and go on.

    Args:
        archive: The archive.
        directory: The study's directory, new or empty.
        storage_url: SQLAlchemy URL of the database to put its experiment into; None makes one in
            the directory.

    Returns:
        The study's name.

    Raises:
        InputError: If the archive is none, or damaged, or holds what no study does; if the
            directory holds files; if the database cannot be used or has a study of that name. Then
            nothing has changed.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} exists and is not an empty folder; give another --to")
    with _refusals(archive), _new_folder(directory) as folder:
        kept = _unpack(archive, folder)
        experiment = to_ax(kept)
        if storage_url is None:
            _save(sqlite_url(folder / DATABASE), experiment)
            folder.replace(directory)
        else:
            # The lease tells the study's directory, and shall not tell of one that is refused.
            _require_no_study(storage_url, kept.name)
            with study_lease(storage_url, kept.name, directory):
                _require_no_study(storage_url, kept.name)
                _save(storage_url, experiment, lambda: folder.replace(directory))
    return kept.name


@contextlib.contextmanager
def _refusals(archive: Path) -> Iterator[None]:
    """Turn whatever is raised into a refusal of the archive.

    Raises:
        InputError: Naming the archive and the reason.
    """
    try:
        yield
    except InputError:
        raise
    # A hostile archive can make a library raise anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise InputError(f"{archive}: cannot be restored: {reason}") from error


@contextlib.contextmanager
def _new_folder(directory: Path) -> Iterator[Path]:
    """Give a folder beside a directory, to take its place; after an exception there is neither."""
    parents = [parent for parent in directory.absolute().parents if not parent.exists()]
    existed = directory.exists()
    directory.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{directory.name}.restoring-", dir=directory.parent))
    try:
        (folder / "state").mkdir()
        folder.chmod(stat.S_IMODE((folder / "state").stat().st_mode))  # As the user's mask has it.
        yield folder
    except BaseException:
        if not folder.exists():  # It is the directory already, but its database refused.
            shutil.rmtree(directory, ignore_errors=True)
            if existed:
                directory.mkdir()
        shutil.rmtree(folder, ignore_errors=True)
        for parent in parents:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _unpack(archive: Path, folder: Path) -> ArchivedExperiment:
    """Check an archive, and write its files into a folder; return its experiment."""
    try:
        opened = zipfile.ZipFile(archive)
    except OSError as error:
        raise InputError(f"{archive}: cannot be read: {error.strerror or error}") from error
    with opened:
        members = _members(opened)
        manifest = _parse(Manifest, _read(opened, members.pop(MANIFEST), None, _MAX_MANIFEST))
        _require_sizes(archive, members, manifest.files, folder)
        kept = _parse(
            ArchivedExperiment,
            _read(opened, members.pop(EXPERIMENT), manifest.files[EXPERIMENT], _MAX_EXPERIMENT),
        )
        for name, info in members.items():
            _extract(opened, info, manifest.files[name], folder / name)
    try:
        name, identity = read_study_yaml(folder / STUDY_YAML).name, identity_of(folder)
    except QsearchError as error:
        raise ValueError(str(error).replace(f"{folder}/", "")) from error
    if not name == manifest.study == kept.name:
        names = ", ".join(map(repr, (name, manifest.study, kept.name)))
        raise ValueError(f"its parts are of the studies {names}")
    if identity != kept.description:
        raise ValueError("its experiment belongs to another study's directory")
    return kept


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return an archive's members by name: a study's files alone, each once."""
    infos = archive.infolist()
    if len(infos) > _MAX_MEMBERS:
        raise ValueError(f"it has {len(infos)} files; a study has at most {_MAX_MEMBERS}")
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.orig_filename
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not (name in (MANIFEST, EXPERIMENT) or STUDY_FILES.fullmatch(name)):
            raise ValueError(f"it holds {name[:200]!r}, which is no file of a study")
        if name != info.filename or kind not in (0, stat.S_IFREG):
            raise ValueError(f"{name!r} in it is not a plain file")
        if info.flag_bits & 1 or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise ValueError(f"{name!r} in it is encrypted, or compressed in an unknown way")
        if name in found:
            raise ValueError(f"it holds {name!r} twice")
        found[name] = info
    missing = {MANIFEST, EXPERIMENT, STUDY_YAML, IDENTITY} - found.keys()
    if missing:
        raise ValueError(f"it is no archive of a study: it lacks {', '.join(sorted(missing))}")
    return found


def _require_sizes(
    archive: Path, members: dict[str, zipfile.ZipInfo], told: dict[str, Member], folder: Path
) -> None:
    """Require that files are those of the manifest, and that there is room for them."""
    if members.keys() != told.keys():
        name = sorted(members.keys() ^ told.keys())[0]
        raise ValueError(f"{name[:200]!r} is in its manifest or in the archive, but not in both")
    for name, info in members.items():
        if info.file_size != told[name].size:
            raise ValueError(f"{name!r} in it has another size than the manifest tells")
    total = sum(member.size for member in told.values())
    most = min(_MAX, max(_ALWAYS_ALLOWED, _MAX_GROWTH * archive.stat().st_size))
    if total > most:
        raise ValueError(f"its files take {total} bytes; at most {most} are unpacked from it")
    free = shutil.disk_usage(folder).free
    if total > free:
        raise ValueError(f"its files take {total} bytes, and {folder.parent} has {free} free")


def _parse(kind: type[_Model], content: bytes) -> _Model:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        name = MANIFEST if kind is Manifest else EXPERIMENT
        raise ValueError(f"{name} in it: {where}: {first['msg']}") from error


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, told: Member | None, most: int) -> bytes:
    """Return the content of a member that may have so many bytes."""
    if info.file_size > most:
        raise ValueError(f"{info.filename!r} in it has {info.file_size} bytes; it is no study's")
    return b"".join(_chunks(archive, info, told))


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, told: Member, to: Path) -> None:
    with to.open("xb") as file:
        for chunk in _chunks(archive, info, told):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _chunks(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, told: Member | None
) -> Iterator[bytes]:
    """Yield a member's content; zipfile ends it at the size that the archive's directory tells."""
    digest, size = hashlib.sha256(), 0
    with archive.open(info) as stream:
        while chunk := stream.read(CHUNK):
            size += len(chunk)
            digest.update(chunk)
            yield chunk
    if told is not None and (size, digest.hexdigest()) != (told.size, told.sha256):
        raise ValueError(f"{info.filename!r} in it is damaged: its digest differs")


def _require_no_study(url: str, name: str) -> None:
    engine = open_engine(url)
    with database_errors(url), engine.connect() as connection:
        if not inspect(connection).has_table("experiment_v2"):
            return
        query = text("SELECT count(*) FROM experiment_v2 WHERE name = :name")
        if connection.execute(query, {"name": name}).scalar():
            raise InputError(
                f"--storage {without_password(url)!r} holds a study {name!r} already;"
                " give another database"
            )


def _save(
    url: str, experiment: Experiment, before_commit: Callable[[], object] = lambda: None
) -> None:
    """Save a new experiment in one transaction, which ends after something else succeeded."""
    with database_errors(url):
        database = Database(url, without_password(url))
        with contextlib.closing(database), database.transaction():
            save_experiment(experiment, config=registry_bundle().sqa_config)
            before_commit()
