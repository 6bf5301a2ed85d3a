"""Scales that bring a layer's outputs nearest to the original's, for codes as they are.

A layer's outputs x·Wᵀ move by tr(E·H·Eᵀ) in mean square when its weight moves by E = W − Q, with
H = E[x·xᵀ] the second moment of its inputs. Q is linear in the scales of its groups. So for each
row, the best scales solve least squares with as many unknowns as the row has groups: a scale also
makes up for errors of other groups, as far as their inputs are correlated. Nothing more is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qsearch._threads import one_thread
from qsearch_quantizers.weights import check_moment

RIDGE = 1e-4
"""What pulls a group's factor towards 1, as a share of the mean square of what its scale moves."""

_CHUNK = 1 << 24
"""Numbers in the largest temporary."""


@one_thread()
def scale_factors(
    weight: Tensor, parts: Sequence[Tensor], moment: Tensor, group_size: int, dampening: float
) -> Tensor:
    """Return what to multiply each scale by (parts × output features × groups), float32.

    The dequantized weight Q is the sum of parts, each with a scale for each group, as of multiples
    and of offsets. W and the parts (all output features × input features) are float32. Groups are
    of neighbouring weights of a row; the last one of a row may be shorter. Where a part's group is
    all zero, the scale stays.

    The moment is H (input features × input features), to whose diagonal ``dampening`` times its
    mean is added: no input may count for nothing because a few batches do not show it.

    Raises:
        InputError: If the moment has another shape.
    """
    rows, columns = weight.shape
    check_moment(moment, columns)
    H = moment.detach().to(weight.device, torch.float32).clone()
    H.diagonal().add_(dampening * H.diagonal().mean())
    filled = -columns % group_size
    groups = (columns + filled) // group_size
    error = torch.nn.functional.pad((weight - sum(parts)) @ H, (0, filled))
    values = [
        torch.nn.functional.pad(part, (0, filled)).view(rows, groups, group_size) for part in parts
    ]
    blocks = torch.nn.functional.pad(H, (0, filled, 0, filled)).view(groups, group_size, -1)
    factors = torch.empty(len(parts), rows, groups, device=weight.device)
    step = max(1, _CHUNK // (len(parts) * groups * (columns + filled)))
    for first in range(0, rows, step):
        some = slice(first, first + step)
        own = [value[some] for value in values]
        change = _least_squares(own, blocks, error[some].view(own[0].shape))
        factors[:, some] = 1 + change.movedim(1, 0)
    return factors


def _least_squares(own: Sequence[Tensor], blocks: Tensor, error: Tensor) -> Tensor:
    """Return the relative change of each scale of some rows (rows × parts × groups).

    Each part and E·H are rows × groups × group size, and the blocks are H's (groups × group size ×
    input features).
    """
    rows, groups, size = error.shape
    grams = []
    for one in own:
        # By group: what a change of its weights moves (groups × rows × groups × group size).
        moved = (one.transpose(0, 1) @ blocks).view(groups, rows, groups, size)
        grams.append(torch.cat([torch.einsum("grhi,rhi->rgh", moved, two) for two in own], dim=2))
    gram = torch.cat(grams, dim=1)
    gain = torch.cat([(error * one).sum(dim=2) for one in own], dim=1)
    squares = gram.diagonal(dim1=1, dim2=2)
    least = torch.finfo(torch.float32).tiny
    squares += (RIDGE * squares.mean(dim=1, keepdim=True)).clamp_min(least)
    change: Tensor = torch.linalg.solve(gram, gain)
    return change.view(rows, len(own), groups)
