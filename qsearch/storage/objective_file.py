"""What an objective reported that no table of trials holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from qsearch.storage.paths import OBJECTIVE_FILE
from qsearch.storage.state_file import StateFile


@dataclass(frozen=True)
class ObjectiveFacts:
    """How many examples each loss is a mean over, if that is known, and metrics by trial."""

    examples: Annotated[int, Field(ge=1)] | None = None
    metrics: Mapping[Annotated[int, Field(ge=0)], Mapping[str, float]] = field(default_factory=dict)


_FACTS = StateFile(ObjectiveFacts)


def read_objective(directory: Path) -> ObjectiveFacts:
    """Return what an objective has reported so far; DamagedFileError if its file is damaged."""
    path = directory / OBJECTIVE_FILE
    return _FACTS.read(path) if path.is_file() else ObjectiveFacts()


def write_objective(directory: Path, facts: ObjectiveFacts) -> None:
    """Replace what an objective has reported."""
    _FACTS.write(directory / OBJECTIVE_FILE, facts)
