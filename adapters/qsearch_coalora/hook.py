"""The adjustment U applied inside plain PEFT LoRA layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class AdjustmentHooks:
    """Adjusts the low-rank projection of each LoRA layer.

    With h = x·Aᵀ the output of a layer's ``lora_A`` module, the layer goes on with h + h·Uᵀ, or
    with h + x·Rᵀ·Uᵀ where a basis R is given. Without adjustments set, layers are untouched plain
    LoRA.

    Args:
        projections: The ``lora_A`` module of each layer, in layer order.
        bases: R of each layer (r × input features), in layer order, or None.
    """

    def __init__(
        self, projections: Sequence[nn.Module], bases: Sequence[Tensor] | None = None
    ) -> None:
        self._adjustments: tuple[Tensor, ...] | None = None
        self._bases = bases
        self._handles = [
            projection.register_forward_hook(self._hook(position))
            for position, projection in enumerate(projections)
        ]

    def _hook(self, position: int):  # type: ignore[no-untyped-def]
        def apply(module: nn.Module, inputs: tuple[Tensor, ...], projected: Tensor) -> Tensor:
            if self._adjustments is None:
                return projected
            adjusted = projected if self._bases is None else inputs[0] @ self._bases[position].T
            return projected + adjusted @ self._adjustments[position].T

        return apply

    def set(self, U: Tensor | None) -> None:
        """Use adjustments from now on, or plain LoRA.

        Args:
            U: One matrix per layer (layers × r × r); gradients flow into it.

        Raises:
            ValueError: If the number of matrices is not the number of layers.
        """
        if U is None:
            self.clear()
            return
        if len(U) != len(self._handles):
            raise ValueError(f"expected U for {len(self._handles)} layers, received {len(U)}")
        self._adjustments = U.unbind(0)

    def folded(self, position: int, A: Tensor, U: Tensor) -> Tensor:
        """Return a layer's A (r × input features) with its adjustment U (r × r) folded in."""
        return A + U @ (A if self._bases is None else self._bases[position])

    def clear(self) -> None:
        """Go back to plain LoRA."""
        self._adjustments = None

    def remove(self) -> None:
        """Take the hooks off the model."""
        handles: list[RemovableHandle] = self._handles
        for handle in handles:
            handle.remove()
        self._handles = []


@torch.no_grad()
def random_basis(rank: int, features: int, generator: torch.Generator) -> Tensor:
    """Return a random matrix with orthonormal rows (rank × features), or columns if it is tall."""
    wide = torch.randn(max(rank, features), min(rank, features), generator=generator)
    basis = torch.linalg.qr(wide).Q
    result: Tensor = basis.T if rank <= features else basis
    return result.contiguous()
