"""Low-rank factors of what quantization takes away from a weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsearch_coalora.weights.input_norm import InputNorm

OVERSAMPLING = 8
POWER_ITERATIONS = 4


@dataclass(frozen=True)
class Factors:
    """Two factors of a matrix of low rank.

    Args:
        L1: Output features × r.
        L2: r × input features.
    """

    L1: Tensor
    L2: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that both take."""
        return self.L1.nbytes + self.L2.nbytes


@dataclass(frozen=True)
class ResidualFactors(Factors):
    """Factors of W − W̃.

    Args:
        left: Share of its squared norm that the first 0, 1, … r of them leave (r + 1).
        error: Squared norm of what all of them leave.
    """

    left: tuple[float, ...]
    error: float


@torch.no_grad()
def residual_factors(
    weight: Tensor,
    quantized: Tensor,
    rank: int,
    generator: torch.Generator,
    norm: InputNorm | None = None,
) -> ResidualFactors:
    """Return the factors of a rank-r approximation of W − W̃ by randomised SVD.

    The singular values are shared evenly: L1 = P·√S and L2 = √S·Qᵀ; signs are such that each row of
    L2 points along a fixed random vector, as nothing else settles them. (Halko, Martinsson and
    Tropp 2011, algorithms 4.4 and 5.1; `torch.svd_lowrank` takes as long, but draws from the global
    generator.) In the norm of a layer's inputs, ‖E·R‖, they are those of
    (W − W̃)·R, and R⁻¹ goes into L2: so the outputs are as near as a rank-r term can bring them.
    (Zhang et al. 2025, "QERA: an analytical framework for quantization error reconstruction".)

    The generator draws the random test matrix, on the CPU.

    Raises:
        ValueError: If the rank is above the smaller feature count.
    """
    residual = (weight - quantized).float()
    if rank > min(residual.shape):
        raise ValueError(f"rank must be at most {min(residual.shape)}, not {rank}")
    if norm is not None:
        residual = norm.whiten(residual)
    width = min(rank + OVERSAMPLING, *residual.shape)
    test = torch.randn(residual.shape[1], width, generator=generator).to(residual)
    basis = torch.linalg.qr(residual @ test).Q
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(residual @ torch.linalg.qr(residual.T @ basis).Q).Q
    left, singular, right = torch.linalg.svd(basis.T @ residual, full_matrices=False)
    # A pair's sign follows from rounding, so from threads and machine; but U was trained for one.
    signs = torch.where(right[:rank] @ test[:, 0] < 0, -1.0, 1.0).to(singular)
    root = singular[:rank].sqrt()
    L1 = (basis @ left[:, :rank]) * (root * signs)
    L2 = (root * signs)[:, None] * right[:rank]
    whole = residual.square().sum().clamp_min(torch.finfo(residual.dtype).tiny)
    taken = singular[:rank].square().cumsum(0) / whole
    shares = (1.0, *(1.0 - taken).clamp_min(0.0).tolist())
    if norm is not None:
        even = balanced(L1, norm.unwhiten(L2))
        L1, L2 = even.L1, even.L2
    return ResidualFactors(L1, L2, shares, shares[-1] * float(whole))


@torch.no_grad()
def stripped_factors(
    weight: Tensor,
    quantize: Callable[[Tensor], Tensor],
    rank: int,
    turns: int,
    generator: torch.Generator,
    norm: InputNorm | None = None,
) -> Factors:
    """Return the low-rank part that a weight is best quantized without, L1·L2.

    Quantized and low-rank part are found by turns, from the principal part of W itself: each is
    the best for the other. What is returned is that of the turn after which residual factors of
    W − quantized(W − L1·L2) leave least. (Guo et al. 2024, "LQ-LoRA", algorithm 1, here in the norm
    of the layer's inputs.)

    ``quantize`` returns a matrix as quantized and dequantized. The generator is drawn from alike
    for each turn, so that singular vectors keep their signs.
    """
    seed = generator.initial_seed()

    def factors(quantized: Tensor) -> ResidualFactors:
        return residual_factors(weight, quantized, rank, generator.manual_seed(seed), norm)

    best, least = None, math.inf
    own = factors(torch.zeros_like(weight))
    for _ in range(turns):
        following = factors(quantize(weight - own.L1 @ own.L2))
        if best is None or following.error < least:
            best, least = own, following.error
        own = following
    assert best is not None
    return best


def balanced(L1: Tensor, L2: Tensor) -> Factors:
    """Return factors with the same product, each column of L1 as long as its row of L2."""
    tiny = torch.finfo(L1.dtype).tiny
    lengths = L1.norm(dim=0).clamp_min(tiny), L2.norm(dim=1).clamp_min(tiny)
    scale = (lengths[1] / lengths[0]).sqrt()
    return Factors(L1 * scale, L2 / scale[:, None])
