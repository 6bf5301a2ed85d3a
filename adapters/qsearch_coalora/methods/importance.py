"""How much each row and column of a weight matters: the Fisher information of a few batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from qsearch_coalora.weights.sensitivity import recorded_calls

_MIN_SHARE = 1e-3
"""Least importance, as a share of the mean: the decomposition divides by it."""


def row_and_column_importance(
    modules: Sequence[nn.Module], batches: Iterable[Callable[[], Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Return each layer's D_row (output features) and D_col (input features).

    With F = E[g²] the diagonal Fisher information from examples' gradients g, D_row² and D_col² are
    the means of F over each row and each column (Guo et al. 2024, section 3.3), scaled so that
    D_row² D_col² has the mean of F: ‖D_row E D_col‖² is then about Σ F E², whatever the layer.

    Modules are linear, an adapter around them included. Each of the batches runs the model and
    returns its examples' losses (examples).
    """
    rows: dict[int, Tensor] = {}
    columns: dict[int, Tensor] = {}
    examples = 0
    for run in batches:
        with recorded_calls(modules) as calls, torch.enable_grad():
            losses = run()
            examples += len(losses)
            outputs = [output for _, output in calls.values()]
            gradients = torch.autograd.grad(losses.sum(), outputs)
        for (position, (inputs, _)), gradient in zip(calls.items(), gradients, strict=True):
            inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1])
            gradient = gradient.reshape(len(gradient), -1, gradient.shape[-1])
            for x, d in zip(inputs, gradient, strict=True):
                squared = (d.T @ x).square()
                rows[position] = rows.get(position, torch.zeros(())) + squared.mean(dim=1)
                columns[position] = columns.get(position, torch.zeros(())) + squared.mean(dim=0)
    return [_scaled(rows[i], columns[i], examples) for i in range(len(modules))]


def _scaled(rows: Tensor, columns: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    """Return D_row and D_col from sums over examples, both kept away from zero."""
    mean = rows.mean() / examples
    if not mean > 0:
        return torch.full_like(rows, 1e-12), torch.ones_like(columns)
    share_of_rows, share_of_columns = rows / rows.mean(), columns / columns.mean()
    return (
        (share_of_rows.clamp_min(_MIN_SHARE) * mean).sqrt(),
        share_of_columns.clamp_min(_MIN_SHARE).sqrt(),
    )
