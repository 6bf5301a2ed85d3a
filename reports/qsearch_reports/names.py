"""How reports call studies, and how a shell calls their directories."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from qsearch.records import StudyRecord


def distinct_names(records: Sequence[StudyRecord], directories: Sequence[str]) -> list[str]:
    """Return one label per study: its name, with its directory where two names are equal."""
    names = [record.name for record in records]
    return [
        f"{name} ({directory})" if names.count(name) > 1 else name
        for name, directory in zip(names, directories, strict=True)
    ]


def shell_path(path: str) -> str:
    """Return a path quoted for a POSIX shell, never mistaken for an option."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)
