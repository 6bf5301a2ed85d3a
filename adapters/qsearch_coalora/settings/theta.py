"""Options of θ."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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
