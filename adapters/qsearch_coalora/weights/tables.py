"""Tables of a model in memory: a token embedding, an output head, or one weight that is both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qsearch.models.tables import embedding_scale, output_head
from qsearch_coalora.weights.layer_inputs import mean_squares

Call = tuple[Tensor, Tensor]
"""Input of a module's call, and the gradient of its output."""


@dataclass(frozen=True)
class Table:
    """The modules that a table's weight (vocabulary × width) serves.

    Tables have no LoRA: its factors would take rank · (vocabulary + width) weights, and a step
    would compute their products for the whole vocabulary. Of a tied head, ``head_path`` is the
    path; its weight is there under that name, too.
    """

    embedding: nn.Embedding | None
    head: nn.Linear | None
    head_path: str | None = None

    @property
    def modules(self) -> tuple[nn.Embedding | nn.Linear, ...]:
        """Both, or the one that there is."""
        return tuple(module for module in (self.embedding, self.head) if module is not None)

    def moment(self, of_head: Tensor) -> Tensor:
        """Return the second moment of the inputs, or its diagonal, given that of the head's.

        Rows of an embedding are looked up, so each counts by itself, as with inputs of moment 1. A
        weight that serves both has the sum, so scaled that both count the same.
        """
        if self.embedding is None:
            return of_head
        squares = mean_squares(of_head)
        mean = float(squares.mean()) or 1.0
        ones = torch.ones_like(squares)
        return of_head / mean + (ones if of_head.ndim == 1 else ones.diag())

    def squared_norms(self, calls: Mapping[nn.Module, Call]) -> Tensor:
        """Return ‖g‖² of each example (examples), with g the gradient of the weight.

        With ids i and δ the gradients of the rows that were looked up, inputs x and γ the gradients
        of the logits, the embedding's part is Σ_{t,u: i_t = i_u} δ_t·δ_u, the head's
        Σ_{t,u} (x_t·x_u)(γ_t·γ_u), and twice Σ_{t,u} γ_u[i_t] (x_u·δ_t) is of both.
        """
        parts = [torch.zeros(())]
        looked_up = None if self.embedding is None else calls.get(self.embedding)
        predicted = None if self.head is None else calls.get(self.head)
        if looked_up is not None:
            ids, rows = looked_up
            assert self.embedding is not None
            rows = rows * (embedding_scale(self.embedding) or 1.0)
            alike = ids[:, :, None] == ids[:, None, :]
            parts.append(((rows @ rows.mT) * alike).sum(dim=(1, 2)))
        if predicted is not None:
            inputs, logits = predicted
            parts.append(((inputs @ inputs.mT) * (logits @ logits.mT)).sum(dim=(1, 2)))
        if looked_up is not None and predicted is not None:
            places = ids[:, None, :].expand(-1, logits.shape[1], -1)
            common = logits.gather(2, places) * (inputs @ rows.mT)
            parts.append(2 * common.sum(dim=(1, 2)))
        return sum(parts[1:], parts[0].to(parts[-1]))


def table_at(model: nn.Module, path: str) -> Table:
    """Return the table whose layer has a path in a model."""
    module, head = model.get_submodule(path), output_head(model)
    if isinstance(module, nn.Embedding):
        tied = head is not None and head[1].weight is module.weight
        return Table(module, head[1], head[0]) if head is not None and tied else Table(module, None)
    assert isinstance(module, nn.Linear)
    return Table(None, module)
