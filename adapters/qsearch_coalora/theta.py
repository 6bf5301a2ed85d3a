"""θ: the network that maps every layer's configuration to its adjustment matrix U."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from qsearch.configuration import Choices, Configuration
from qsearch.layers import LayerSpec


class ThetaOptions(BaseModel):
    """Size of θ.

    Args:
        embedding_dim: Dimensions of each embedding.
        hidden: Width of the hidden layer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding_dim: int = Field(default=8, ge=1)
    hidden: int = Field(default=128, ge=1)


class Theta(nn.Module):
    """U = θ(layer configuration, role, block) for all layers at once.

    Each knob's value, the role and the block have an embedding; their concatenation goes through
    LayerNorm, a linear layer, SiLU and a linear layer to r² values. The last layer starts near
    zero, so U ≈ 0 and the adapter starts as a plain LoRA adapter. (CoA-LoRA, ICLR 2026,
    section "Compact embedding and layer-wise parallel adjustment".)

    Args:
        choices: The quantizer's knobs.
        layers: The model's layers.
        rank: Rank r of the adapter.
        options: Sizes.
        generator: Draws the initial weights.
    """

    role_ids: Tensor
    block_ids: Tensor

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
        self.names = tuple(layer.name for layer in layers)
        self.rank = rank
        roles = sorted({layer.role for layer in layers})
        blocks = sorted({layer.block for layer in layers})
        dim = options.embedding_dim
        self.knobs = nn.ModuleList(nn.Embedding(size, dim) for size in choices.sizes)
        self.role = nn.Embedding(len(roles), dim)
        self.block = nn.Embedding(len(blocks), dim)
        features = dim * (len(choices.knobs) + 2)
        self.norm = nn.LayerNorm(features)
        self.hidden = nn.Linear(features, options.hidden)
        self.output = nn.Linear(options.hidden, rank * rank)
        self.register_buffer(
            "role_ids", torch.tensor([roles.index(layer.role) for layer in layers]), False
        )
        self.register_buffer(
            "block_ids", torch.tensor([blocks.index(layer.block) for layer in layers]), False
        )
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for embedding in (*self.knobs, self.role, self.block):
            embedding.weight.normal_(generator=generator)
        bound = self.hidden.in_features**-0.5
        self.hidden.weight.uniform_(-bound, bound, generator=generator)
        self.hidden.bias.zero_()
        self.output.weight.normal_(std=1e-3, generator=generator)
        self.output.bias.zero_()

    def encode(self, configuration: Configuration) -> Tensor:
        """Return a configuration as value indices, integers (layers × knobs)."""
        return torch.tensor(
            [
                [knob.index(configuration[name][knob.name]) for knob in self.choices.knobs]
                for name in self.names
            ]
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Map value indices to adjustments.

        Args:
            codes: Value index of each layer's knobs, integers (layers × knobs).

        Returns:
            U (layers × r × r).

        Raises:
            ValueError: If the shape of the codes is not layers × knobs.
        """
        expected = (len(self.names), len(self.knobs))
        if tuple(codes.shape) != expected:
            raise ValueError(f"codes must be layers × knobs {expected}, not {tuple(codes.shape)}")
        embedded = [embed(codes[:, index]) for index, embed in enumerate(self.knobs)]
        embedded += [self.role(self.role_ids), self.block(self.block_ids)]
        hidden = nn.functional.silu(self.hidden(self.norm(torch.cat(embedded, dim=-1))))
        U: Tensor = self.output(hidden).view(-1, self.rank, self.rank)
        return U
