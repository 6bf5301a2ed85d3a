"""The trainer's section of a study YAML."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qsearch_coalora.device import parse_device
from qsearch_coalora.theta import ThetaOptions


class CoALoRAOptions(BaseModel):
    """Options of the CoA-LoRA trainer.

    Args:
        rank: Rank r of the adapter.
        alpha: LoRA's α; the adapter's output is scaled by α / r. None means r.
        init: ``shared`` trains one pair of factors for all configurations; ``residual`` fills
            some or all of the rank with the factors of W − W̃ of each configuration. Measured on
            MiniLM (rank 16, one seed, standard errors near .02; loss at uniform 2, 3, 4, 8 bits):
            on SST-2, shared .440, .392, .373, .374 and half residual .411, .381, .375, .371; on
            docstrings, .871, .841, .797, .823 and .817, .863, .789, .822. All residual stays near
            chance on SST-2 (.655 to .678), since only θ and the head can learn the task then.
        residual_rank: With ``residual``, how much of the rank those factors take; the rest is
            shared and trained. None means half. The paper's text has all of it.
        learning_rate: Peak rate of AdamW for the factors and the task head.
        later_learning_rate: Peak rate after round 0, where training goes on from an adapter that
            a full restart would disturb. None means the same.
        theta_learning_rate: Peak rate for θ. None means the same.
        weight_decay: Decoupled weight decay.
        warmup_steps: Steps over which a round's rate rises; then it falls linearly to zero.
        max_grad_norm: Gradients are scaled down to this norm.
        steps: Optimizer steps of each round.
        first_steps: Steps of round 0. None means ``steps``.
        batch_size: Training examples of a step.
        configurations_per_step: Configurations that share the examples of a step.
        eval_batch_size: Examples evaluated at once.
        calibration_batches: Training batches whose gradients give the layers' sensitivities.
        cache_mebibytes: Bound of the cache of quantized weights.
        device: PyTorch device, such as ``cpu`` or ``cuda``.
        theta: Size of θ.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    init: Literal["shared", "residual"] = "residual"
    residual_rank: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    later_learning_rate: float | None = Field(default=None, gt=0)
    theta_learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=10, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    steps: int = Field(default=200, ge=1)
    first_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    configurations_per_step: int = Field(default=2, ge=1)
    eval_batch_size: int = Field(default=64, ge=1)
    calibration_batches: int = Field(default=8, ge=1)
    cache_mebibytes: int = Field(default=256, ge=0)
    device: str = "cpu"
    theta: ThetaOptions = ThetaOptions()

    @field_validator("device")
    @classmethod
    def _known_device(cls, name: str) -> str:
        parse_device(name)
        return name

    @model_validator(mode="after")
    def _consistent(self) -> CoALoRAOptions:
        if self.init == "shared" and self.residual_rank is not None:
            raise ValueError("residual_rank is only for init: residual")
        if self.fixed_rank > self.rank:
            raise ValueError(f"residual_rank must be at most rank ({self.rank})")
        if self.configurations_per_step > self.batch_size:
            raise ValueError(f"configurations_per_step must be at most {self.batch_size}")
        return self

    @property
    def scaling(self) -> float:
        """LoRA's α / r."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def fixed_rank(self) -> int:
        """How much of the rank holds residual factors."""
        if self.init == "shared":
            return 0
        return max(self.rank // 2, 1) if self.residual_rank is None else self.residual_rank

    def rate_scale(self, round: int) -> float:
        """Return what a round's learning rates are multiplied by."""
        if round == 0 or self.later_learning_rate is None:
            return 1.0
        return self.later_learning_rate / self.learning_rate

    def round_steps(self, round: int) -> int:
        """Return the number of optimizer steps of a round."""
        return self.first_steps if round == 0 and self.first_steps is not None else self.steps
