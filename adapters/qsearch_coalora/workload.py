"""How much a task has the model compute, told without reading its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from qsearch.plugins import Task
from qsearch_coalora.options import CoALoRAOptions

_STEP_COST = 3
"""Forward passes that a training step costs: one forward, and two in the backward pass. Frozen
weights need no gradient of their own, but the adapter's products take up much of that."""


@dataclass(frozen=True)
class Workload:
    """What a task feeds to the model.

    Args:
        example_tokens: Most tokens of an example.
        evaluated_examples: Examples of an evaluation, or None if only the data can tell.
        notes: Sentences for the user, such as data that has to be downloaded first.
    """

    example_tokens: int
    evaluated_examples: int | None
    notes: tuple[str, ...] = ()


@runtime_checkable
class TellsWorkload(Protocol):
    """A task that can tell its workload; for others, no time is estimated."""

    def workload(self) -> Workload:
        """Return the workload, from the options alone."""
        ...


def task_workload(task: Task) -> Workload | None:
    """Return a task's workload, or None if it does not tell it."""
    return task.workload() if isinstance(task, TellsWorkload) else None


def work_parameters(model: nn.Module) -> int:
    """Return the parameters that every token is multiplied with: all but embeddings."""
    embedded = sum(
        module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding)
    )
    return sum(parameter.numel() for parameter in model.parameters()) - embedded


def floating_point_operations(
    parameters: int, options: CoALoRAOptions, workload: Workload
) -> tuple[tuple[float, float], float]:
    """Estimate the operations of training and of evaluating.

    A forward pass takes 2 operations per parameter and token; attention's own products and
    quantization are left out, padding is counted as tokens.

    Args:
        parameters: Parameters that every token is multiplied with.
        options: The trainer's options.
        workload: The task's workload.

    Returns:
        Operations of training in round 0 and in each later round, and of evaluating one
        configuration; all zero where the evaluated examples are not known.
    """
    if workload.evaluated_examples is None:
        return (0.0, 0.0), 0.0
    example = 2.0 * parameters * workload.example_tokens
    step = _STEP_COST * example * options.batch_size
    return (
        (step * options.round_steps(0), step * options.round_steps(1)),
        example * workload.evaluated_examples,
    )
