"""How much a task has the model compute, from its options alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from qsearch.errors import InputError
from qsearch.plugins.protocols import Task


@dataclass(frozen=True)
class Workload:
    """The most tokens of an example, and the examples of an evaluation (None: the data decide)."""

    example_tokens: int
    evaluated_examples: int | None
    notes: tuple[str, ...] = ()
    """Sentences for the user, such as data that has to be downloaded first."""
    tokens_option: str = "task"
    """The option that sets ``example_tokens``, for messages."""
    reference_bytes: int = 0
    """What is kept of the unquantized model's outputs on an example, at most."""


@runtime_checkable
class SupportsWorkload(Protocol):
    """A task that knows its workload; for others, no time is estimated."""

    def workload(self) -> Workload:
        """Return the workload, from the options alone."""
        ...


def task_workload(task: Task) -> Workload | None:
    """Return a task's workload, or None if it does not say it."""
    return task.workload() if isinstance(task, SupportsWorkload) else None


def require_positions(limit: int | None, workload: Workload | None) -> None:
    """Raise InputError unless a model that reads so many tokens can read a task's examples."""
    if workload is not None and limit is not None and workload.example_tokens > limit:
        raise InputError(
            f"{workload.tokens_option} {workload.example_tokens} is above the {limit} tokens that"
            f" the model can read; give at most {limit}"
        )
