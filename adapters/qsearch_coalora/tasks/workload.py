"""How much a task has the model compute, from its options alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

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


@runtime_checkable
class SupportsWorkload(Protocol):
    """A task that knows its workload; for others, no time is estimated."""

    def workload(self) -> Workload:
        """Return the workload, from the options alone."""
        ...


def task_workload(task: Task) -> Workload | None:
    """Return a task's workload, or None if it does not say it."""
    return task.workload() if isinstance(task, SupportsWorkload) else None


def position_limit(model: nn.Module) -> int | None:
    """Return the most tokens that a model can read at once, or None if it does not say.

    RoBERTa and its kin number positions from after the padding's, so they read fewer tokens than
    they have position embeddings; the embedding's padding index tells them apart.
    """
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    skipped = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "position_embeddings"
        and isinstance(module, nn.Embedding)
        and module.padding_idx is not None
    ]
    return positions - max(skipped, default=0)


def require_positions(model: nn.Module, workload: Workload | None) -> None:
    """Raise InputError unless a model can read a task's examples."""
    limit = position_limit(model)
    if workload is not None and limit is not None and workload.example_tokens > limit:
        raise InputError(
            f"{workload.tokens_option} {workload.example_tokens} is above the {limit} tokens that"
            f" the model can read; give at most {limit}"
        )
