"""A weight as a quantized matrix plus a low-rank one, found by turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsearch_coalora.adapter.residual import residual_factors

MAX_TURNS = 100


@dataclass(frozen=True)
class Decomposition:
    """W ≈ quantized(W − L1·L2) + L1·L2.

    Args:
        L1: Output features × r.
        L2: r × input features.
        error: Weighted squared error ‖D_row (W − approximation) D_col‖².
        turns: How often both components were found.
    """

    L1: Tensor
    L2: Tensor
    error: float
    turns: int

    @property
    def nbytes(self) -> int:
        """Bytes that both factors take."""
        return self.L1.nbytes + self.L2.nbytes


@torch.no_grad()
def decompose(
    weight: Tensor,
    quantize: Callable[[Tensor], Tensor],
    rank: int,
    importance: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> Decomposition:
    """Find the quantized and the low-rank part by turns until the error rises.

    (Guo et al. 2024, "LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition", algorithms 1 and 2
    and section 3.3: with an importance whose rows and columns are alike, the weighted low-rank
    part is the SVD of D_row (W − Q) D_col, scaled back. As there, Q = 0 at first: from Q = the
    quantized W, the errors found are up to twice as large.)

    Args:
        weight: W (output features × input features).
        quantize: Returns a matrix as quantized and dequantized.
        rank: Rank r.
        importance: D_row (output features) and D_col (input features), positive.
        generator: Draws the random matrices of the randomised SVD.

    Returns:
        The decomposition of least error.
    """
    rows, columns = importance[0][:, None], importance[1][None]
    quantized = torch.zeros_like(weight)
    best: Decomposition | None = None
    for turn in range(1, MAX_TURNS + 1):
        scaled = residual_factors(
            weight * rows * columns, quantized * rows * columns, rank, generator
        )
        L1, L2 = _balanced(scaled.L1 / rows, scaled.L2 / columns)
        quantized = quantize(weight - L1 @ L2)
        error = float(((weight - quantized - L1 @ L2) * rows * columns).double().square().sum())
        if best is not None and error >= best.error:
            break
        best = Decomposition(L1, L2, error, turn)
    assert best is not None
    return best


def _balanced(L1: Tensor, L2: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of the same product whose components have equal norms on both sides.

    Importance is of any scale; factors of very different size would not train at one rate.
    """
    ratio = (L2.norm(dim=1) / L1.norm(dim=0)).nan_to_num(nan=1.0, posinf=1.0, neginf=1.0).sqrt()
    ratio = torch.where(ratio > 0, ratio, 1.0)
    return L1 * ratio, L2 / ratio[:, None]
