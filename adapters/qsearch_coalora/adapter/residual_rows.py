"""The part of an adapter's rank that holds a configuration's residual factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.errors import EvaluationError
from qsearch.space.configuration import Configuration
from qsearch_coalora.adapter.residual import Factors, residual_factors
from qsearch_coalora.weights.input_norm import InputNorm
from qsearch_coalora.weights.switching import QuantizedWeights


class ResidualRows:
    """The first ``rank`` rows of each A and columns of each B, which are placed and not trained.

    A rank of 0 makes everything here do nothing. PEFT multiplies B·A by ``scaling``, so placed
    factors are divided by it. The cache of the weights keeps the factors.
    """

    def __init__(
        self,
        rank: int,
        scaling: float,
        names: Sequence[str],
        factors: Sequence[tuple[nn.Parameter, nn.Parameter]],
        weights: QuantizedWeights,
    ) -> None:
        self.rank = rank
        self.norms: Sequence[InputNorm | None] = [None] * len(names)
        self._scaling = scaling
        self._names = tuple(names)
        self._factors = tuple(factors)
        self._weights = weights
        if not rank:
            return
        for A, B in self._factors:
            self.clear(A, B)
            if rank < len(A):
                for factor, fixed in ((A, slice(rank)), (B, (slice(None), slice(rank)))):
                    factor.register_hook(partial(_masked, fixed))  # type: ignore[no-untyped-call]
        self.freeze()

    def freeze(self) -> None:
        """Take A and B out of training where residual factors are all of the rank."""
        for A, B in self._factors:
            if self.rank == len(A):
                A.requires_grad_(False)
                B.requires_grad_(False)

    @torch.no_grad()
    def clear(self, A: Tensor, B: Tensor) -> None:
        """Set the rows and columns of a layer's A and B, or of copies of them, to zero."""
        A[: self.rank], B[:, : self.rank] = 0, 0

    @torch.no_grad()
    def place(self, configuration: Configuration, active: Sequence[Tensor]) -> None:
        """Put a configuration's factors in.

        Active are its dequantized weights, by layer.
        """
        # Always all layers: an optimizer's weight decay has touched the fixed rows too.
        for position, (A, B) in enumerate(self._factors):
            self.put_into(position, A, B, configuration, active[position].detach)

    def put_into(
        self,
        position: int,
        A: Tensor,
        B: Tensor,
        configuration: Configuration,
        dequantize: Callable[[], Tensor] | None = None,
    ) -> None:
        """Put a configuration's factors into a layer's A and B, or into copies of them."""
        if not self.rank:
            return
        chosen = configuration[self._names[position]]

        def make() -> Factors:
            weights = self._weights
            dequantized = dequantize() if dequantize else weights.dequantized(position, chosen)
            if not dequantized.isfinite().all():
                raise EvaluationError(
                    f"layer {self._names[position]!r} quantized as {dict(chosen)} has"
                    " values that are not finite"
                )
            generator = torch.Generator().manual_seed(position)
            original, norm = weights.originals[position], self.norms[position]
            return residual_factors(original, dequantized, self.rank, generator, norm)

        factors = self._weights.cache.get(("residual", position, chosen), make)
        A[: self.rank] = factors.L2
        B[:, : self.rank] = factors.L1 / self._scaling


def _masked(fixed: Any, gradient: Tensor) -> Tensor:
    masked = gradient.clone()
    masked[fixed] = 0
    return masked
