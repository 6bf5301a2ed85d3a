"""θ: the network that maps every layer's configuration to its adjustment matrix U."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qsearch.space.configuration import Choices, Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch_coalora.settings.theta import ThetaOptions


class Theta(nn.Module):
    """U = θ(layer configuration, role, block) for all layers at once.

    Each knob's value, the role and the block have an embedding; their concatenation goes through
    LayerNorm, a linear layer, SiLU and a linear layer to r² values. The last layer starts near
    zero, so U ≈ 0 and the adapter starts as a plain LoRA adapter. (CoA-LoRA, ICLR 2026,
    section "Compact embedding and layer-wise parallel adjustment".)

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
        modules = (*self.knobs, self.role, self.block)
        return [module for module in modules if isinstance(module, nn.Embedding)]

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
        """Return what θ sees of layers under a configuration (layers × embeddings).

        Of each layer the position of each knob's value, of its role and of its block, as far as θ
        sees them.
        """
        return torch.tensor([self._code(configuration[layer.name], layer) for layer in layers])

    def _code(self, chosen: LayerConfiguration, layer: LayerSpec) -> list[int]:
        code = [knob.index(chosen[knob.name]) for knob in self.choices.knobs]
        if self.options.role:
            code.append(self.roles.index(layer.role))
        if self.options.block:
            code.append(self.blocks.index(layer.block))
        return code

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes, as :meth:`encode` returns them, to adjustments U (layers × r × r)."""
        embedded = [embed(codes[:, index]) for index, embed in enumerate(self._embeddings)]
        hidden = nn.functional.silu(self.hidden(self.norm(torch.cat(embedded, dim=-1))))
        output: Tensor = self.output(hidden)
        if self.options.rank is None:
            return output.view(-1, self.rank, self.rank)
        left, right = output.chunk(2, dim=1)
        inner = self.options.rank
        return left.view(-1, self.rank, inner) @ right.view(-1, inner, self.rank)
