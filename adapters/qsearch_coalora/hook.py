"""The adjustment (I + U) applied inside plain PEFT LoRA layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class AdjustmentHooks:
    """Multiplies (I + U) into the low-rank projection of each LoRA layer.

    With h = x·Aᵀ the output of a layer's ``lora_A`` module, the layer goes on with h + h·Uᵀ.
    Without adjustments set, layers are untouched plain LoRA.

    Args:
        projections: The ``lora_A`` module of each layer, in layer order.
    """

    def __init__(self, projections: Sequence[nn.Module]) -> None:
        self._adjustments: tuple[Tensor, ...] | None = None
        self._handles = [
            projection.register_forward_hook(self._hook(position))
            for position, projection in enumerate(projections)
        ]

    def _hook(self, position: int):  # type: ignore[no-untyped-def]
        def apply(module: nn.Module, inputs: object, projected: Tensor) -> Tensor:
            if self._adjustments is None:
                return projected
            return projected + projected @ self._adjustments[position].T

        return apply

    def set(self, U: Tensor) -> None:
        """Use adjustments from now on.

        Args:
            U: One matrix per layer (layers × r × r); gradients flow into it.

        Raises:
            ValueError: If the number of matrices is not the number of layers.
        """
        if len(U) != len(self._handles):
            raise ValueError(f"expected U for {len(self._handles)} layers, received {len(U)}")
        self._adjustments = U.unbind(0)

    def clear(self) -> None:
        """Go back to plain LoRA."""
        self._adjustments = None

    def remove(self) -> None:
        """Take the hooks off the model."""
        handles: list[RemovableHandle] = self._handles
        for handle in handles:
            handle.remove()
        self._handles = []
