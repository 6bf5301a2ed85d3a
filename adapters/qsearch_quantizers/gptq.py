"""Rounding whose errors are compensated in the weights that are not rounded yet (GPTQ).

A layer's outputs x·Wᵀ move by tr(E·H·Eᵀ) in mean square when its weight moves by E = W − Q, with
H = E[x·xᵀ] the second moment of its inputs. Frantar et al. 2022, "GPTQ: Accurate Post-Training
Quantization for Generative Pre-trained Transformers" (arXiv:2210.17323), round W column by column,
each time moving the later columns to where they make up best for the error so far.

The paper spreads each error by the inverse of H. Chee et al. 2023, "QuIP: 2-Bit Quantization of
Large Language Models With Guarantees" (arXiv:2307.13304), show that the same codes come from the
factors of H itself (their LDLQ): with H = R·D·Rᵀ, R unit upper triangular and D diagonal,

    tr(E·H·Eᵀ) = Σ_j D_jj ‖e_j + Σ_{k<j} R_kj·e_k‖²,

so column j is best rounded from w_j + Σ_{k<j} R_kj·(w_k − q_k), whatever comes after it. Where a
group begins, its compensated weights, from which the paper finds its scale, are those that leave no
further term: with a = Σ_{k before the group} R_k·e_k on the group's columns and R_G its block of R,
w + a·R_G⁻¹. So H is decomposed once and nothing of its size is inverted.

On the CPU all of it runs on one thread, which is no slower: the Cholesky decomposition rounds its
sums differently with another number of threads. So the codes do not depend on PyTorch's number of
threads; on another processor some may be a neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from qsearch._threads import one_thread
from qsearch.errors import InputError
from qsearch_quantizers.weights import check_moment

BLOCK = 64
"""Columns, at least, whose errors go to later blocks in one matrix product (GPTQ's "lazy batch
updates"); a multiple of all smaller group sizes. Rounding 1,536 × 384 weights on one core took
0.027 s with 64, 0.044 s with 128."""


class GroupGrid(Protocol):
    """The values that the weights of a group of columns can have."""

    def encode(self, values: Tensor, out: Tensor) -> Tensor:
        """Write the codes of the nearest values of a column (1 × output features) to ``out``."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values of codes, float32."""
        ...


G = TypeVar("G", bound=GroupGrid)


class FeedbackFactors:
    """The :func:`feedback_factor` of weights, that of the last moment kept.

    A weight is quantized in several ways, one after the other, and neighbouring layers have inputs
    in common, whose moment is one object.
    """

    def __init__(self, dampening: float) -> None:
        self._dampening = dampening
        self._moment: Tensor | None = None
        self._factor: Tensor | None = None

    def of(self, weight: Tensor, moment: Tensor) -> Tensor | None:
        """Return the factor of the moment of a weight's inputs.

        None where nothing makes up for an error, such as in the rows of an embedding.

        Raises:
            InputError: If the moment has another shape, or is not positive semidefinite.
        """
        check_moment(moment, weight.shape[1])
        if moment is not self._moment:
            try:
                factor = feedback_factor(moment.detach(), self._dampening)
            except ValueError as error:
                raise InputError(
                    f"weight of shape {tuple(weight.shape)} cannot be rounded by its inputs:"
                    f" {error}"
                ) from error
            is_one = int(factor.count_nonzero()) == len(factor)
            self._moment, self._factor = moment, None if is_one else factor
        return None if self._factor is None else self._factor.to(weight.device)


@one_thread()
def feedback_factor(moment: Tensor, dampening: float) -> Tensor:
    """Return R of H + λ·I = R·D·Rᵀ, where λ is ``dampening`` times the mean of H's diagonal.

    Dampening makes a singular H invertible. An input that is always zero has neither effect nor
    correlation, so its column of weights is rounded to nearest; where all are, R is the identity.

    Returns:
        R (input features × input features), float32, unit upper triangular.

    Raises:
        ValueError: If H is not positive semidefinite.
    """
    wide = moment.double()
    mean = wide.diagonal().mean()
    if mean == 0:
        return torch.eye(len(wide), dtype=torch.float32, device=wide.device)
    # Cholesky's factor is lower triangular; of the reversed matrix it is ours, reversed.
    reverse = wide.flip(0, 1)
    reverse.diagonal().add_(dampening * mean)
    lower, failed = torch.linalg.cholesky_ex(reverse)
    if failed:
        raise ValueError("the moment is not positive semidefinite")
    factor: Tensor = lower.div_(lower.diagonal().clone()).flip(0, 1).float()
    return factor


@one_thread()
def compensated_codes(
    factor: Tensor, weight: Tensor, group_size: int, find_grid: Callable[[Tensor, int], G]
) -> tuple[Tensor, Sequence[G]]:
    """Round a weight column by column, each from where it corrects the errors before it.

    A group's grid is found when its first column is reached, from the compensated weights and the
    number of that column.

    The factor is R of :func:`feedback_factor`, and W (output features × input features) float32.

    Returns:
        Codes (output features × input features), and a grid for each group; of whole rows, one.
    """
    # Columns are rows here, since they are read and written one by one.
    original = weight.t()
    block = max(BLOCK, group_size)  # Whole groups: one is compensated before its grid is found.
    row_grid = None
    if 2 * BLOCK < len(original) <= group_size:
        # The grid of whole rows has no errors before it, and blocks of them are much faster.
        row_grid, group_size, block = find_grid(original, 0), BLOCK, BLOCK
    target = original.contiguous().clone()
    codes = torch.empty(target.shape, dtype=torch.uint8, device=target.device)
    grids: list[G] = []
    for start in range(0, len(target), block):
        own = slice(start, start + block)

        def own_grid(values: Tensor, column: int, start: int = start) -> G:
            return find_grid(values, start + column) if row_grid is None else row_grid

        codes[own], errors, own_grids = _rounded_block(
            factor[own, own], original[own], target[own], group_size, own_grid
        )
        grids += own_grids
        target[own.stop :].addmm_(factor[own, own.stop :].t(), errors)
    return codes.t(), grids if row_grid is None else [row_grid]


def _rounded_block(
    factor: Tensor,
    original: Tensor,
    target: Tensor,
    group_size: int,
    find_grid: Callable[[Tensor, int], G],
) -> tuple[Tensor, Tensor, list[G]]:
    """Round the columns of one block.

    The factor is its block of R (columns × columns), ``original`` Wᵀ (columns × output features),
    and ``target`` Wᵀ with the errors of earlier blocks; those of this one are added in place.

    Returns:
        Codes as float32, errors W − Q (both columns × output features), and the groups' grids.
    """
    errors, codes = original.clone(), torch.empty_like(target)
    grids: list[G] = []
    for first in range(0, len(target), group_size):
        group = slice(first, first + group_size)
        # (a·R_G⁻¹)ᵀ: how far the group's weights move if they are to leave no error.
        moved = torch.linalg.solve_triangular(
            factor[group, group].t(), target[group] - original[group], upper=False
        )
        grids.append(find_grid(original[group] + moved, first))
        for column in range(first, min(group.stop, len(target))):
            row = slice(column, column + 1)
            code = grids[-1].encode(target[row], out=codes[row])
            error = errors[row].sub_(grids[-1].decode(code))[0]
            target[column + 1 :].addr_(factor[column, column + 1 :], error)
    return codes, errors, grids
