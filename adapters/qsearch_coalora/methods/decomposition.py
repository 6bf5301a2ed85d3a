"""A weight as a quantized matrix plus a low-rank one, found by turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsearch_coalora.adapter.residual import Factors, balanced, residual_factors

MAX_TURNS = 100


@dataclass(frozen=True)
class Decomposition(Factors):
    """W ≈ quantized(W − L1·L2) + L1·L2.

    Args:
        error: Weighted squared error ‖D_row (W − approximation) D_col‖².
        turns: How often both parts were found.
    """

    error: float
    turns: int


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

    ``quantize`` returns a matrix as quantized and dequantized; importance is D_row (output
    features) and D_col (input features), positive; the generator draws the random matrices of the
    randomised SVD.
    """
    rows, columns = importance[0][:, None], importance[1][None]
    quantized = torch.zeros_like(weight)
    best: Decomposition | None = None
    for turn in range(1, MAX_TURNS + 1):
        scaled = residual_factors(
            weight * rows * columns, quantized * rows * columns, rank, generator
        )
        # Importance is of any scale; factors of very different size would not train at one rate.
        parts = balanced(scaled.L1 / rows, scaled.L2 / columns)
        low_rank = parts.L1 @ parts.L2
        quantized = quantize(weight - low_rank)
        error = float(((weight - quantized - low_rank) * rows * columns).double().square().sum())
        if best is not None and error >= best.error:
            break
        best = Decomposition(parts.L1, parts.L2, error, turn)
    assert best is not None
    return best
