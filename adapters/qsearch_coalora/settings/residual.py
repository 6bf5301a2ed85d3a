"""Options of the part of the rank that begins as residual factors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qsearch_coalora.settings.options import SetTrainingOptions

RESIDUAL_RANK = "trainer.residual_rank (half of trainer.rank if it is not given)"
"""How messages name the rank of residual factors."""


class ResidualOptions(SetTrainingOptions):
    """Options of methods whose rank has a part that follows from the configuration.

    LoRA's α is divided by the shared rank, residual factors left out: so the shared factors move
    the weights as fast as those of plain LoRA with the same α and that rank.

    Args:
        residual_rank: How much of the rank that part takes; the rest is shared and trained. None
            means half.
        residual_norm: Norm in which residual factors come nearest to W − W̃: ``frobenius``, or
            ``inputs``, that of the change in the layer's outputs, measured on
            ``calibration_batches`` batches under the base model.
        residual_turns: Turns in which the quantized and the low-rank part of each weight are
            found, each the best for the other. None means the method's own number; 0 quantizes the
            weight as it is.
    """

    residual_rank: int | None = Field(default=None, ge=1)
    residual_norm: Literal["frobenius", "inputs"] = "inputs"
    residual_turns: int | None = Field(default=None, ge=0, le=100)

    @model_validator(mode="after")
    def _at_most_rank(self) -> ResidualOptions:
        if self.fixed_rank > self.rank:
            raise ValueError(f"residual_rank {self.fixed_rank} must be at most rank, {self.rank}")
        return self

    @property
    def scaling(self) -> float:
        """LoRA's α over the shared rank; residual factors are not scaled."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (self.rank - self.fixed_rank or self.rank)

    @property
    def turns(self) -> int:
        """Turns in which the quantized and the low-rank part of each weight are found."""
        return self.residual_turns or 0

    @property
    def fixed_rank(self) -> int:
        """How much of the rank holds residual factors."""
        return max(self.rank // 2, 1) if self.residual_rank is None else self.residual_rank
