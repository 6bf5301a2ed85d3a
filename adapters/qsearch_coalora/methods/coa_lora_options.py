"""The section ``trainer: {name: coa-lora}`` of a study YAML."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qsearch_coalora.adapter.theta import ThetaOptions
from qsearch_coalora.training.options import SetTrainingOptions

THETA_RATE = 3.0
"""θ's peak rate over that of the factors, where none is given."""


class CoALoRAOptions(SetTrainingOptions):
    """Options of the CoA-LoRA trainer.

    LoRA's α is divided by the trained rank, residual factors left out: so the trained factors move
    the weights as fast as those of plain LoRA with the same α and that rank.

    Args:
        init: ``shared`` trains one pair of factors for all configurations; ``residual`` fills
            some or all of the rank with the factors of W − W̃ of each configuration. What both
            are worth stands in docs/design.md.
        residual_rank: With ``residual``, how much of the rank those factors take; the rest is
            shared and trained. None means half. The paper's text has all of it; then only θ and
            the head learn the task, and SST-2 stays near chance.
        residual_norm: Norm in which those factors come nearest to W − W̃: ``frobenius``, or
            ``inputs``, that of the change in the layer's outputs, measured on
            ``calibration_batches`` batches under the base model.
        theta_learning_rate: Peak rate for θ. None means three times that of the factors; 0 leaves U
            near zero.
        theta_start: Share of round 1's steps that train plain LoRA, U = 0, before θ joins. None
            do where residual factors take all of the rank.
        theta: Shape of θ.
    """

    init: Literal["shared", "residual"] = "residual"
    residual_rank: int | None = Field(default=None, ge=1)
    residual_norm: Literal["frobenius", "inputs"] = "inputs"
    theta_learning_rate: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    theta_start: float = Field(default=0.5, ge=0, lt=1)
    theta: ThetaOptions = ThetaOptions()

    @model_validator(mode="after")
    def _consistent(self) -> CoALoRAOptions:
        if self.init == "shared" and self.residual_rank is not None:
            raise ValueError("residual_rank is only for init: residual")
        if self.fixed_rank > self.rank:
            raise ValueError(f"residual_rank {self.fixed_rank} must be at most rank, {self.rank}")
        if self.theta.rank is not None and self.theta.rank > self.rank:
            raise ValueError(f"theta.rank {self.theta.rank} must be at most rank, {self.rank}")
        if self.fixed_rank == self.rank and not self.theta_rate:
            raise ValueError("theta_learning_rate must be above 0 where residual_rank is rank")
        return self

    @property
    def scaling(self) -> float:
        """LoRA's α over the trained rank; residual factors are not scaled."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (self.rank - self.fixed_rank or self.rank)

    @property
    def theta_rate(self) -> float:
        """Peak rate for θ."""
        if self.theta_learning_rate is None:
            return THETA_RATE * self.learning_rate
        return self.theta_learning_rate

    @property
    def fixed_rank(self) -> int:
        """How much of the rank holds residual factors."""
        if self.init == "shared":
            return 0
        return max(self.rank // 2, 1) if self.residual_rank is None else self.residual_rank
