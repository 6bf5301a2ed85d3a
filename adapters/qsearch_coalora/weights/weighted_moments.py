"""Second moments of layers' inputs in which tokens count by the gradients of the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from qsearch_coalora.weights.sensitivity import recorded_calls


def weighted_moments(
    modules: Sequence[nn.Linear],
    runs: Iterable[Callable[[], Tensor]],
    diagonal: bool = False,
) -> list[Tensor]:
    """Return each layer's E[‖δ‖²·x·xᵀ] / E[‖δ‖²], or the diagonals of them alone.

    With inputs x and gradients δ of a layer's outputs, an error E of its weight raises the loss by
    ½ E[(δᵀ·E·x)²] to second order. Where δ has no preferred direction, that is proportional to
    tr(E·H·Eᵀ), with H = E[‖δ‖²·x·xᵀ].

    Returns:
        For each layer a moment (input features × input features), or a diagonal (input features),
        float32 and on the model's device; zero where no gradient came.
    """
    shapes = [(module.in_features,) * (1 if diagonal else 2) for module in modules]
    sums: list[Tensor | None] = [None] * len(modules)
    totals = [0.0] * len(modules)
    for run in runs:
        with recorded_calls(modules) as calls, torch.enable_grad():
            losses = run()
            outputs = [output for _, output in calls.values()]
            gradients = torch.autograd.grad(losses.sum(), outputs)
        for (position, (inputs, _)), gradient in zip(calls.items(), gradients, strict=True):
            x = inputs.reshape(-1, inputs.shape[-1]).float()
            weights = gradient.reshape(len(x), -1).float().square().sum(dim=1)
            added = x.square().T @ weights if diagonal else x.T @ (x * weights[:, None])
            before = sums[position]
            sums[position] = added if before is None else before.add_(added)
            totals[position] += float(weights.sum())
    return [
        torch.zeros(()).expand(shape) if total is None or not weight else total.div_(weight)
        for shape, total, weight in zip(shapes, sums, totals, strict=True)
    ]
