"""Patterns of module paths as tools match them."""

from __future__ import annotations

import re
from functools import cache

from qsearch.errors import InputError


def matches_regex(pattern: str, path: str, whole_start: bool = False) -> bool:
    """Return whether a regular expression matches somewhere in a path, or from its start."""
    compiled = _compiled(pattern)
    return bool(compiled.match(path) if whole_start else compiled.search(path))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"{pattern!r} is not a regular expression: {error}") from error
