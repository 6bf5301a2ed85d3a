"""The norm in which an error of a weight weighs as much as it moves the layer's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qsearch_coalora.weights.layer_inputs import with_inputs

COMPONENTS = 128
"""Principal components of a layer's inputs that are kept."""

FLOOR = 0.01
"""What is added to the mean square of the inputs along each direction, as a share of the mean
over all: no direction may count for nothing because a few batches do not show it."""


@dataclass(frozen=True)
class InputNorm:
    """‖E·R‖ with R² the second moment E[x·xᵀ] of a layer's inputs x: how far E moves the outputs.

    R² is kept as its principal components and one value for all other directions.

    Args:
        basis: Principal components (input features × components), orthonormal columns.
        scales: Root mean square of the inputs along each (components), positive.
        rest: The same along any other direction, positive.
    """

    basis: Tensor
    scales: Tensor
    rest: float

    @property
    def size(self) -> float:
        """Root of E‖x‖² over the number of input features."""
        features, components = self.basis.shape
        others = (features - components) * self.rest**2
        return float(((self.scales.square().sum() + others) / features).sqrt())

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it, exactly, as tensors by name."""
        rest = torch.tensor(self.rest, dtype=torch.float64)
        return {"basis": self.basis, "scales": self.scales, "rest": rest}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], prefix: str) -> InputNorm | None:
        """Return the norm of :meth:`tensors` whose names have a prefix; None if there are none."""
        if f"{prefix}.basis" not in tensors:
            return None
        basis, scales, rest = (tensors[f"{prefix}.{name}"] for name in ("basis", "scales", "rest"))
        return cls(basis, scales, float(rest))

    def whiten(self, error: Tensor) -> Tensor:
        """Return E·R (output features × input features)."""
        return error * self.rest + (error @ self.basis) * (self.scales - self.rest) @ self.basis.T

    def unwhiten(self, rows: Tensor) -> Tensor:
        """Return rows·R⁻¹ (any × input features)."""
        inverse, rest = self.scales.reciprocal(), 1 / self.rest
        return rows * rest + (rows @ self.basis) * (inverse - rest) @ self.basis.T


@torch.no_grad()
def input_norms(
    modules: Sequence[nn.Linear],
    run: Callable[[Mapping[str, Tensor]], object],
    batches: Iterable[Mapping[str, Tensor]],
    generator: torch.Generator,
) -> list[InputNorm | None]:
    """Return the norm of each layer's inputs, None where it had none.

    Components come from two passes over the batches, so that no matrix of input features × input
    features is held: one finds the subspace, the other its second moment. (Randomised subspace
    iteration; Halko, Martinsson and Tropp 2011.)
    """
    batches = list(batches)
    starts: dict[int, Tensor] = {}
    sketches: dict[int, Tensor] = {}
    for features in dict.fromkeys(int(module.in_features) for module in reversed(modules)):
        starts[features] = torch.randn(features, min(COMPONENTS, features), generator=generator)

    def search(position: int, inputs: Tensor) -> None:
        sketch = inputs.T @ (inputs @ starts[inputs.shape[1]].to(inputs))
        sketches[position] = sketches[position] + sketch if position in sketches else sketch

    with_inputs(modules, run, batches, search)
    bases = {position: torch.linalg.qr(sketch).Q for position, sketch in sketches.items()}
    moments = {position: basis.new_zeros(basis.shape[1:] * 2) for position, basis in bases.items()}
    totals = dict.fromkeys(bases, 0.0)
    counts = dict.fromkeys(bases, 0)

    def measure(position: int, inputs: Tensor) -> None:
        projected = inputs @ bases[position]
        moments[position] += projected.T @ projected
        totals[position] += float(inputs.square().sum())
        counts[position] += len(inputs)

    with_inputs(modules, run, batches, measure)
    return [
        _norm(bases[position], moments[position] / counts[position], totals[position] / count)
        if (count := counts.get(position))
        else None
        for position in range(len(modules))
    ]


def _norm(basis: Tensor, moment: Tensor, total: float) -> InputNorm:
    """Return the norm of inputs with a second moment in a subspace, and a total mean square."""
    features, count = basis.shape
    squares, components = torch.linalg.eigh(moment)
    squares = squares.clamp_min(0)
    left_over = max(total - float(squares.sum()), 0.0) / max(features - count, 1)
    floor = FLOOR * (total / features or 1.0)
    return InputNorm(basis @ components, (squares + floor).sqrt(), (left_over + floor) ** 0.5)
