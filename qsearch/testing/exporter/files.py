"""The files of an export."""

from __future__ import annotations

import zipfile
from pathlib import Path

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
"""Names of files whose loading runs code that is in them."""

WEIGHTS = PICKLES | {".safetensors", ".gguf", ".npz"}
"""Names of files that hold weights, if not those alone."""


def files_of(directory: Path) -> dict[str, bytes]:
    """Return what each file in a directory holds, by its path inside it."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def assert_no_pickles(directory: Path, what: str) -> None:
    """Assert that a directory has files, and none of them is a pickle."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert any(path.stat().st_size for path in files), f"{what}: no files"
    assert sorted(path.name for path in files if _is_pickle(path)) == [], f"{what}: pickles"


def _is_pickle(path: Path) -> bool:
    """Return whether a file has the name of a pickle, or holds one as ``torch.save`` writes it."""
    if path.suffix in PICKLES:
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(name).suffix in PICKLES for name in archive.namelist())
