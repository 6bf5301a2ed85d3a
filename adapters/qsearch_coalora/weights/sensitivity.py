"""How much an error in each layer raises the loss, from gradients of a few batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qsearch_coalora.weights.tables import Call, Table

_ROWS = 4096
"""Of a weight that are in float64 at a time."""


def layer_sensitivities(
    modules: Sequence[nn.Module],
    weights: Sequence[Tensor],
    batches: Iterable[Callable[[], Tensor]],
    tables: Sequence[Table] = (),
) -> npt.NDArray[np.float64]:
    """Return the expected rise of the loss per unit of a layer's relative squared error.

    To second order, an error D in a weight W raises the loss by ½ E[(g·D)²] with g an example's
    gradient: the empirical Fisher information instead of the Hessian. For errors without a
    preferred direction that is ½ E‖g‖² ‖D‖² / numel(W), so per unit of ‖D‖²/‖W‖² it is

        s = ½ E‖g‖² ‖W‖² / numel(W).

    No gradient of a weight is formed: ‖g‖² = Σ_{t,u} (x_t·x_u)(δ_t·δ_u) for inputs x and output
    gradients δ at positions t, u of an example (Goodfellow 2015, "Efficient per-example gradient
    computations", extended to sequences).

    Modules are the linear ones, an adapter around them included, then come the tables; weights are
    the original ones of both. A batch is a call that runs the model and returns its examples'
    losses; without one, it is a ValueError.
    """
    squared = [torch.zeros((), dtype=torch.float64) for _ in (*modules, *tables)]
    of_tables = [module for table in tables for module in table.modules]
    examples = 0
    for run in batches:
        with recorded_calls([*modules, *of_tables]) as calls, torch.enable_grad():
            losses = run()
            outputs = [output for _, output in calls.values()]
            gradients = torch.autograd.grad(losses.sum(), outputs)
        of_table: dict[nn.Module, Call] = {}
        for (position, (inputs, _)), gradient in zip(calls.items(), gradients, strict=True):
            if position < len(modules):
                squared[position] += _squared_norms(inputs, gradient).sum().double().cpu()
            else:
                of_table[of_tables[position - len(modules)]] = (inputs, gradient)
        for position, table in enumerate(tables, len(modules)):
            squared[position] += table.squared_norms(of_table).sum().double().cpu()
        examples += len(losses)
    if not examples:
        raise ValueError("sensitivities need at least one batch")
    scale = [_mean_square(weight) for weight in weights]
    result = 0.5 * np.array([float(value) for value in squared]) / examples * np.array(scale)
    return np.asarray(result, dtype=np.float64)


def _mean_square(weight: Tensor) -> float:
    # Some rows at a time: in float64, a table is as large as the rest of some models.
    sums = [float(rows.double().square().sum()) for rows in torch.split(weight, _ROWS)]
    return sum(sums) / weight.numel()


@contextmanager
def recorded_calls(modules: Sequence[nn.Module]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Record each module's input and output while the model runs."""
    calls: dict[int, tuple[Tensor, Tensor]] = {}

    def hook(position: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                output.requires_grad_(True)
            calls[position] = (inputs[0].detach(), output)

        return record

    with ExitStack() as handles:
        for position, module in enumerate(modules):
            handles.enter_context(module.register_forward_hook(hook(position)))
        yield calls


def _squared_norms(inputs: Tensor, gradient: Tensor) -> Tensor:
    """Return ‖g‖² of each example (examples) from inputs and output gradients."""
    inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    gradient = gradient.reshape(len(gradient), -1, gradient.shape[-1])
    return ((inputs @ inputs.mT) * (gradient @ gradient.mT)).sum(dim=(1, 2))
