"""The adjustment U folded into the low-rank projections of plain PEFT LoRA layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class FoldedProjections:
    """Every layer's ``lora_A``, which multiplies by A′ = (I + U)·A while adjustments are set.

    With a basis R given, A′ = A + U·R. Without adjustments, layers are untouched plain LoRA. A′ is
    computed for all layers of a width at once, when adjustments are set, and not for each input:
    products with r × r matrices are so small that a step's time would go into calling them.
    """

    def __init__(
        self, projections: Sequence[nn.Linear], bases: Sequence[Tensor] | None = None
    ) -> None:
        self._projections = tuple(projections)
        self._bases = bases
        self._folded: dict[int, Tensor] = {}
        self._limits: dict[int, int] = {}
        self._positions_by_width: dict[int, list[int]] = {}
        for position, projection in enumerate(projections):
            self._positions_by_width.setdefault(projection.in_features, []).append(position)
            projection.forward = self._forward(position)  # type: ignore[method-assign, assignment]

    def _forward(self, position: int) -> Callable[[Tensor], Tensor]:
        def project(inputs: Tensor) -> Tensor:
            weight = self._folded.get(position, self._projections[position].weight)
            return nn.functional.linear(inputs, weight)

        return project

    def set(self, U: Tensor | None) -> None:
        """Use adjustments of the present A from now on, or plain LoRA, of the layers' ranks.

        U is one matrix per layer (layers × r × r); gradients flow into it, and into A.
        """
        self.clear()
        if U is not None:
            for positions in self._positions_by_width.values():
                A = torch.stack([self._projections[position].weight for position in positions])
                R = A if self._bases is None else torch.stack([self._bases[at] for at in positions])
                self._folded |= zip(positions, torch.baddbmm(A, U[positions], R), strict=True)
        for position, rank in self._limits.items():
            A = self._folded.get(position, self._projections[position].weight)
            rows = torch.arange(len(A), device=A.device) < rank
            self._folded[position] = A * rows[:, None]

    def limit(self, ranks: Sequence[int]) -> None:
        """Have each layer multiply by its first rows alone from the next :meth:`set` on."""
        whole = (len(projection.weight) for projection in self._projections)
        self._limits = {
            position: rank
            for position, (rank, rows) in enumerate(zip(ranks, whole, strict=True))
            if rank < rows
        }

    def clear(self) -> None:
        """Go back to plain LoRA, of the whole rank, until the next :meth:`set`."""
        self._folded = {}

    def fold(self, position: int, A: Tensor, U: Tensor) -> Tensor:
        """Return A′ of one layer (r × input features) for some A and U (r × r)."""
        return A + U @ (A if self._bases is None else self._bases[position])


@torch.no_grad()
def random_basis(rank: int, features: int, generator: torch.Generator) -> Tensor:
    """Return a random matrix with orthonormal rows (rank × features), or columns if it is tall."""
    wide = torch.randn(max(rank, features), min(rank, features), generator=generator)
    basis = torch.linalg.qr(wide).Q
    result: Tensor = basis.T if rank <= features else basis
    return result.contiguous()
