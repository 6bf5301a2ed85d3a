"""θ: the network that maps every layer's configuration to its adjustment matrix U."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from qsearch.space.configuration import Choices, Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec

UNKNOWN = -1
"""Code of a knob's value, a role or a block that θ has no embedding of."""


class ThetaOptions(BaseModel):
    """Shape of θ.

    Args:
        embedding_dim: Dimensions of each embedding.
        hidden: Width of the hidden layer.
        role: Whether θ sees the layer's role.
        block: Whether θ sees the layer's block.
        adjustment: ``multiplicative`` makes the second factor (I + U)·L2, as the paper does;
            ``additive`` makes it L2 + U·R with a fixed random R with orthonormal rows, so that an
            adjustment does not depend on what L2 has learnt.
        rank: Rank of U, as a product of an r × rank and a rank × r matrix. None makes it r × r.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding_dim: int = Field(default=8, ge=1)
    hidden: int = Field(default=128, ge=1)
    role: bool = True
    block: bool = True
    adjustment: Literal["multiplicative", "additive"] = "multiplicative"
    rank: int | None = Field(default=None, ge=1)


class Theta(nn.Module):
    """U = θ(layer configuration, role, block) for all layers at once.

    Each knob's value, the role and the block have an embedding; their concatenation goes through
    LayerNorm, a linear layer, SiLU and a linear layer to r² values. The last layer starts near
    zero, so U ≈ 0 and the adapter starts as a plain LoRA adapter. (CoA-LoRA, ICLR 2026,
    section "Compact embedding and layer-wise parallel adjustment".)

    A layer of a role or block that θ has not seen, or with knobs or values that it does not know,
    gets U = 0: plain LoRA.

    The generator draws the initial weights.
    """

    def __init__(
        self,
        choices: Choices,
        layers: Sequence[LayerSpec],
        rank: int,
        options: ThetaOptions,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.choices = choices
        self.rank = rank
        self.options = options
        self.roles = sorted({layer.role for layer in layers})
        self.blocks = sorted({layer.block for layer in layers})
        dim = options.embedding_dim
        self.knobs = nn.ModuleList(nn.Embedding(size, dim) for size in choices.sizes)
        self.role = nn.Embedding(len(self.roles), dim) if options.role else None
        self.block = nn.Embedding(len(self.blocks), dim) if options.block else None
        features = dim * len(self._embeddings)
        self.norm = nn.LayerNorm(features)
        self.hidden = nn.Linear(features, options.hidden)
        outputs = rank * rank if options.rank is None else 2 * rank * options.rank
        self.output = nn.Linear(options.hidden, outputs)
        self._initialise(generator)

    @property
    def _embeddings(self) -> list[nn.Embedding]:
        found = (*self.knobs, self.role, self.block)
        return [embedding for embedding in found if isinstance(embedding, nn.Embedding)]

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for embedding in self._embeddings:
            embedding.weight.normal_(generator=generator)
        bound = self.hidden.in_features**-0.5
        self.hidden.weight.uniform_(-bound, bound, generator=generator)
        self.hidden.bias.zero_()
        self.output.weight.normal_(std=1e-3, generator=generator)
        self.output.bias.zero_()
        if self.options.rank is not None:
            # One factor starts near zero, the other does not: from two near zero, nothing learns.
            right = self.output.bias[self.rank * self.options.rank :]
            right.normal_(std=self.options.rank**-0.5, generator=generator)

    def encode(self, configuration: Configuration, layers: Sequence[LayerSpec]) -> Tensor:
        """Return what θ sees of layers under a configuration.

        The layers may be of another model than θ was made for.

        Returns:
            For each layer the index of each knob's value, of its role and of its block, as far
            as θ sees them; integers (layers × embeddings), ``UNKNOWN`` where it has none.
        """
        return torch.tensor([self._code(configuration.get(x.name), x) for x in layers])

    def _code(self, chosen: LayerConfiguration | None, layer: LayerSpec) -> list[int]:
        knobs = self.choices.knobs
        if chosen is None or set(chosen) != {knob.name for knob in knobs}:
            code = [UNKNOWN] * len(knobs)
        else:
            code = [_position(knob.values, chosen[knob.name]) for knob in knobs]
        if self.options.role:
            code.append(_position(self.roles, layer.role))
        if self.options.block:
            code.append(_position(self.blocks, layer.block))
        return code

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes to adjustments.

        Args:
            codes: What :meth:`encode` returns (layers × embeddings).

        Returns:
            U (layers × r × r); zero for a layer with an unknown code.

        Raises:
            ValueError: If the codes have another number of columns.
        """
        if codes.ndim != 2 or codes.shape[1] != len(self._embeddings):
            expected = f"layers × {len(self._embeddings)}"
            raise ValueError(f"codes must be {expected}, not {tuple(codes.shape)}")
        known = (codes != UNKNOWN).all(dim=1)
        codes = codes.clamp_min(0)
        embedded = [embed(codes[:, index]) for index, embed in enumerate(self._embeddings)]
        hidden = nn.functional.silu(self.hidden(self.norm(torch.cat(embedded, dim=-1))))
        output: Tensor = self.output(hidden)
        if self.options.rank is None:
            U = output.view(-1, self.rank, self.rank)
        else:
            left, right = output.chunk(2, dim=1)
            inner = self.options.rank
            U = left.view(-1, self.rank, inner) @ right.view(-1, inner, self.rank)
        return U * known[:, None, None]


def _position(values: Sequence[object], value: object) -> int:
    return values.index(value) if value in values else UNKNOWN
