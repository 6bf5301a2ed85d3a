"""The part of an adapter's rank that holds a configuration's residual factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.errors import EvaluationError
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch_coalora.adapter.residual import Factors, residual_factors
from qsearch_coalora.weights.input_norm import InputNorm
from qsearch_coalora.weights.switching import QuantizedWeights


class ResidualRows:
    """The first rows of each A and columns of each B, which are placed and not trained.

    Args:
        rank: How many; 0 makes everything here do nothing.
        scaling: What PEFT multiplies B·A by, and placed factors are divided by.
        names: The layers' names.
        factors: Each layer's A (r × input features) and B (output features × r).
        weights: The layers' weights; their cache keeps the factors.
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
        self.clear()
        for A, B in self._factors:
            if rank < len(A):
                _mask_gradient(A, slice(0, rank))
                _mask_gradient(B, (slice(None), slice(0, rank)))
        self.freeze()

    def freeze(self) -> None:
        """Take A and B out of training where residual factors are all of the rank."""
        for A, B in self._factors:
            if self.rank == len(A):
                A.requires_grad_(False)
                B.requires_grad_(False)

    @torch.no_grad()
    def clear(self) -> None:
        """Set the rows and columns to zero."""
        for A, B in self._factors:
            A[: self.rank], B[:, : self.rank] = 0, 0

    @torch.no_grad()
    def place(self, configuration: Configuration, active: Sequence[Tensor]) -> None:
        """Put a configuration's factors in.

        Active are its dequantized weights, by layer.
        """
        if not self.rank:
            return
        # Always all layers: an optimizer's weight decay has touched the fixed rows too.
        for position, (A, B) in enumerate(self._factors):
            chosen = configuration[self._names[position]]
            self._put(A, B, self._found(position, chosen, partial(Tensor.detach, active[position])))

    def put_into(self, position: int, A: Tensor, B: Tensor, configuration: Configuration) -> None:
        """Put a configuration's factors into copies of a layer's A and B."""
        if self.rank:
            chosen = configuration[self._names[position]]
            dequantize = partial(self._weights.dequantized, position, chosen)
            self._put(A, B, self._found(position, chosen, dequantize))

    def _put(self, A: Tensor, B: Tensor, factors: Factors) -> None:
        A[: self.rank] = factors.L2
        B[:, : self.rank] = factors.L1 / self._scaling

    def without(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """Return copies of a layer's A and B whose residual rows and columns are zero."""
        return _zeroed(A, slice(0, self.rank)), _zeroed(B, (slice(None), slice(0, self.rank)))

    def _found(
        self, position: int, configuration: LayerConfiguration, dequantize: Callable[[], Tensor]
    ) -> Factors:
        def make() -> Factors:
            dequantized = dequantize()
            if not dequantized.isfinite().all():
                raise EvaluationError(
                    f"layer {self._names[position]!r} quantized as {dict(configuration)} has"
                    " values that are not finite"
                )
            generator = torch.Generator().manual_seed(position)
            original, norm = self._weights.originals[position], self.norms[position]
            return residual_factors(original, dequantized, self.rank, generator, norm)

        return self._weights.cache.get(("residual", position, configuration), make)


def _zeroed(tensor: Tensor, fixed: Any) -> Tensor:
    kept = tensor.clone()
    kept[fixed] = 0
    return kept


def _mask_gradient(parameter: nn.Parameter, fixed: Any) -> None:
    hook = parameter.register_hook
    hook(lambda gradient: _zeroed(gradient, fixed))  # type: ignore[no-untyped-call]
