"""The loss on training examples that are held out, and when it says to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsHoldOut
from qsearch.plugins.protocols import Task
from qsearch.space.configuration import Configuration
from qsearch_coalora.adapter.adapted_model import AdaptedModel
from qsearch_coalora.settings.options import EarlyStopping

_BEST = "best."


class HeldOutLoss:
    """Follows the mean held-out loss of some configurations, and keeps the best adapter."""

    def __init__(
        self,
        options: EarlyStopping,
        configurations: Sequence[Configuration],
        loss_of: Callable[[Configuration], float],
    ) -> None:
        self._options = options
        self._configurations = tuple(configurations)
        self._loss_of = loss_of
        self.best_loss = math.inf
        self._best: dict[str, Tensor] = {}
        self._without_gain = 0

    @property
    def every(self) -> int:
        """Steps between two looks."""
        return self._options.every

    @property
    def stops(self) -> bool:
        """Whether training should end."""
        return self._without_gain >= self._options.patience

    def look(self, adapted: AdaptedModel) -> None:
        """Measure the loss, and keep the trained tensors if it is the least so far.

        The model is in training mode before and after.
        """
        adapted.peft_model.eval()
        losses = [self._loss_of(configuration) for configuration in self._configurations]
        adapted.peft_model.train()
        loss = sum(losses) / len(losses)
        if loss < self.best_loss:
            self.best_loss, self._best, self._without_gain = loss, adapted.tensors(), 0
        else:
            self._without_gain += 1

    def take_best(self, adapted: AdaptedModel) -> None:
        """Put the tensors of the least loss into the model, if there has been a look."""
        if self._best:
            adapted.load_tensors(self._best)

    def state(self) -> dict[str, Tensor]:
        """Return what :meth:`restore` needs to continue from here."""
        return {
            "loss": torch.tensor(self.best_loss, dtype=torch.float64),
            "without_gain": torch.tensor(self._without_gain),
            **{f"{_BEST}{name}": tensor for name, tensor in self._best.items()},
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved state."""
        self.best_loss = float(state["loss"])
        self._without_gain = int(state["without_gain"])
        self._best = {
            name.removeprefix(_BEST): tensor
            for name, tensor in state.items()
            if name.startswith(_BEST)
        }


def hold_out(task: Task, stopping: EarlyStopping | None) -> None:
    """Have a task hold out training examples, if training may stop early.

    Raises:
        InputError: If the task cannot.
    """
    if stopping is None:
        return
    if not isinstance(task, SupportsHoldOut):
        raise InputError(
            f"trainer.early_stopping: task {task.name!r} cannot hold out training examples; leave"
            " early_stopping out"
        )
    task.hold_out(stopping.examples)


def spread_over(
    configurations: Sequence[Configuration],
    count: int,
    average_bits: Callable[[Sequence[Configuration]], Sequence[float]],
) -> Sequence[Configuration]:
    """Return at most ``count`` configurations of a set, evenly spread in average bits."""
    if count >= len(configurations):
        return configurations
    bits = average_bits(configurations)
    order = sorted(range(len(bits)), key=lambda position: bits[position])
    if count == 1:
        return [configurations[order[len(order) // 2]]]
    return [configurations[order[round(k * (len(order) - 1) / (count - 1))]] for k in range(count)]
