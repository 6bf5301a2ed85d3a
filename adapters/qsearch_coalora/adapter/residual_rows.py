"""The part of an adapter's rank that follows from a configuration, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.errors import EvaluationError
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch_coalora.adapter.residual import (
    Factors,
    ResidualFactors,
    residual_factors,
    stripped_factors,
)
from qsearch_coalora.adapter.row_entries import Entry, RowEntries
from qsearch_coalora.weights.input_norm import InputNorm
from qsearch_coalora.weights.switching import FULL_PRECISION, QuantizedWeights

WHOLE_RATE = 0.02
"""Squared error, over the weight's own, from which an entry is trained at the whole rate: about
what residual factors of rank 8 leave of weights of 2 bits."""

LEAST_POWER = -10
"""Of 2: the least share of the rate."""


class ResidualRows:
    """The first ``rank`` rows of each A and columns of each B, which are a configuration's.

    They hold the residual factors of the layer's configuration, or with ``entries`` what training
    has made of them: then each layer configuration that a training meets has parameters of its own,
    and gradients of the rows go to those of the active configuration.

    A rank of 0 makes everything here do nothing. PEFT multiplies B·A by ``scaling``, so residual
    factors are divided by it. The cache of the weights keeps them: for each layer configuration,
    factors of ``cached_rank`` rows in all.
    """

    def __init__(
        self,
        rank: int,
        scaling: float,
        names: Sequence[str],
        factors: Sequence[tuple[nn.Parameter, nn.Parameter]],
        weights: QuantizedWeights,
        entries: RowEntries | None = None,
    ) -> None:
        self.rank = rank
        self.norms: Sequence[InputNorm | None] = [None] * len(names)
        self.entries = entries
        self.cached_rank = rank
        self._scaling = scaling
        self._names = tuple(names)
        self._factors = tuple(factors)
        self._weights = weights
        self._active: list[Entry | None] = [None] * len(names)
        if not rank:
            return
        for position, (A, B) in enumerate(self._factors):
            self.clear(A, B)
            if self.entries is not None or rank < len(A):
                own = slice(rank), (slice(None), slice(rank))
                for which, (factor, rows) in enumerate(zip((A, B), own, strict=True)):
                    hook = partial(self._route, position, which, rows)
                    factor.register_hook(hook)  # type: ignore[no-untyped-call]
        self.freeze()

    def freeze(self) -> None:
        """Take A and B out of training where fixed residual factors are all of the rank."""
        for A, B in self._factors:
            if self.rank == len(A) and self.entries is None:
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
            if self.entries is not None:
                chosen = configuration[self._names[position]]
                self._active[position] = self.entries.get(position, chosen)

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
        entry = None if self.entries is None else self.entries.get(position, chosen)
        if entry is not None:
            A[: self.rank], B[:, : self.rank] = entry.A, entry.B
            return
        factors = self._residual_factors(position, chosen, dequantize)
        A[: self.rank] = factors.L2
        B[:, : self.rank] = factors.L1 / self._scaling

    def error_left(self, position: int, chosen: LayerConfiguration) -> tuple[float, ...]:
        """Return the share of a layer's squared error that residual factors of rank 0, 1, … leave.

        In the norm that they are nearest in.
        """
        return self._residual_factors(position, chosen).left

    def _residual_factors(
        self,
        position: int,
        chosen: LayerConfiguration,
        dequantize: Callable[[], Tensor] | None = None,
    ) -> ResidualFactors:
        def make() -> ResidualFactors:
            weights = self._weights
            dequantized = dequantize() if dequantize else weights.dequantized(position, chosen)
            if not dequantized.isfinite().all():
                raise EvaluationError(
                    f"layer {self._names[position]!r} quantized as {dict(chosen)} has"
                    " values that are not finite"
                )
            original, norm = weights.originals[position], self.norms[position]
            return residual_factors(original, dequantized, self.rank, _generator(position), norm)

        return self._weights.cache.get(("residual", position, chosen), make)

    def strip(self, turns: int) -> None:
        """Quantize weights without a low-rank part from now on, which is found in some turns.

        The residual factors, which follow from the quantized weights, then hold that part too.
        """

        def added(position: int, chosen: LayerConfiguration) -> Tensor | None:
            if position >= len(self._names):
                return None
            weights = self._weights

            def make() -> Factors:
                return stripped_factors(
                    weights.originals[position],
                    lambda matrix: weights.approximated(position, matrix, chosen),
                    self.rank,
                    turns,
                    _generator(position),
                    self.norms[position],
                )

            part = weights.cache.get(("stripped", position, chosen), make)
            return -(part.L1 @ part.L2)

        self.cached_rank = 2 * self.rank
        self._weights.add(added)

    @torch.no_grad()
    def open_entries(self, configurations: Sequence[Configuration]) -> None:
        """Make an entry of each layer configuration of these that has none, from its residual."""
        if self.entries is None:
            return
        for configuration in configurations:
            if configuration == FULL_PRECISION:
                continue
            for position, (A, B) in enumerate(self._factors):
                chosen = configuration[self._names[position]]
                if self.entries.get(position, chosen) is None:
                    own_A, own_B = A.detach().clone(), B.detach().clone()
                    self.put_into(position, own_A, own_B, configuration)
                    self.entries.add(position, chosen, own_A[: self.rank], own_B[:, : self.rank])

    def rate_groups(
        self, configurations: Sequence[Configuration]
    ) -> dict[float, list[nn.Parameter]]:
        """Return the entries of configurations by the share of the learning rate that suits them.

        AdamW moves each value by about the rate, whatever is left to mend. So a share is the root
        of the squared error that residual factors leave, over :data:`WHOLE_RATE` of the weight's
        own, and at most 1: rounded to a power of 2, so that few groups are made.
        """
        groups: dict[float, list[nn.Parameter]] = {}
        if self.entries is None:
            return groups
        for position, name in enumerate(self._names):
            whole = self._squared_norm(position)
            met = [one[name] for one in configurations if one != FULL_PRECISION]
            for chosen in sorted(set(met), key=self.entries.number):
                left = self._residual_factors(position, chosen).error
                share = math.sqrt(min(left / (WHOLE_RATE * whole), 1.0)) if whole else 1.0
                power = max(round(math.log2(share)), LEAST_POWER) if share else LEAST_POWER
                entry = self.entries.get(position, chosen)
                assert entry is not None
                groups.setdefault(2.0**power, []).extend(entry)
        return groups

    def _squared_norm(self, position: int) -> float:
        """Return a weight's squared norm, in which residual factors are nearest."""
        weight, norm = self._weights.originals[position].float(), self.norms[position]
        return float((weight if norm is None else norm.whiten(weight)).square().sum())

    def _route(self, position: int, which: int, rows: Any, gradient: Tensor) -> Tensor:
        """Give the gradient of the rows to the active entry's A or B; return what is left."""
        entry = self._active[position]
        if entry is not None:
            _accumulate(entry[which], gradient[rows])
        left = gradient.clone()
        left[rows] = 0
        return left


def _generator(position: int) -> torch.Generator:
    return torch.Generator().manual_seed(position)


def _accumulate(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Add a gradient to a parameter's own, as autograd does."""
    own = gradient.detach().clone()
    parameter.grad = own if parameter.grad is None else parameter.grad + own
