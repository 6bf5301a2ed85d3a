"""What a task harness says of a model: the scores of its tasks, and its own record of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qsearch.space.configuration import Configuration


@dataclass(frozen=True)
class HarnessScore:
    """A metric of a task or of a group of tasks; the standard error is None if not known."""

    task: str
    metric: str
    value: float
    standard_error: float | None


@dataclass(frozen=True)
class HarnessResults:
    """The scores of one model, and what the harness says of its run, as JSON values."""

    scores: tuple[HarnessScore, ...]
    record: Mapping[str, Any]


RunHarness = Callable[[Configuration | None], HarnessResults]
"""Runs the tasks on a configuration as it is deployed, or on the unquantized model if None."""
