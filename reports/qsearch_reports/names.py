"""How reports call studies, and how a shell and Python call their directories."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from qsearch_reports.frames.groups import distinct
from qsearch_reports.results import StudyResults
from qsearch_reports.texts import whole_text


def distinct_names(results: Sequence[StudyResults]) -> list[str]:
    """Return one label per study: its name, with its directory where two names are equal.

    No two labels are equal, also if a directory is given twice, and tables can hold each: what is
    no text in a directory's name is a question mark.
    """
    names = [result.record.name for result in results]
    labels = [
        f"{name} ({result.directory})" if names.count(name) > 1 else name
        for name, result in zip(names, results, strict=True)
    ]
    return distinct([whole_text(label) for label in labels])


def python_study(directory: str) -> str:
    """Return the Python expression that loads a study."""
    return f"qsearch.load_study({directory!r})"


def shell_path(path: str) -> str:
    """Return a path quoted for a POSIX shell, never mistaken for an option."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)
