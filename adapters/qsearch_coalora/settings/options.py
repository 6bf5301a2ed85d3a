"""What every method of this package trains with: optimizer, data, steps, evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qsearch_coalora.settings.device import Precision, parse_device

Schedule = Literal["linear", "cosine", "constant"]

NOT_OF_THE_RESULT = frozenset({"checkpoint_steps", "cache_mebibytes"})
"""Options that change no result."""


class EarlyStopping(BaseModel):
    """Ends a round's training when the loss on held-out training examples no longer falls.

    The round ends with the adapter of the least held-out loss, which can be that it began with.
    Looks begin when all that is trained has joined, and are ``every`` steps apart.

    Args:
        examples: Training examples that are held out.
        every: Steps between two looks.
        patience: Successive looks without a new least loss that end the round.
        configurations: Configurations of the set whose mean loss is taken, spread over average
            bits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    examples: int = Field(default=256, ge=2)
    every: int = Field(default=50, ge=1)
    patience: int = Field(default=3, ge=1)
    configurations: int = Field(default=4, ge=1)


class SamplingOptions(BaseModel):
    """Which configurations of the set a step is trained under.

    Args:
        by: ``uniform`` takes each once in a pass; ``segment`` gives equal shares to equal
            intervals of average bits; ``loss`` draws in proportion to the losses that training
            met.
        segments: Number of those intervals.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["uniform", "segment", "loss"] = "uniform"
    segments: int = Field(default=8, ge=1)


class TrainingOptions(BaseModel):
    """Options that all methods share, so that they compare under equal conditions.

    Args:
        rank: Rank r of the adapter.
        alpha: LoRA's α; the adapter's output is scaled by α / r. None means r.
        learning_rate: Peak rate of AdamW for the factors and the task head.
        later_learning_rate: Peak rate after round 1, where training continues from an adapter that
            a full restart would disturb. None means the same.
        weight_decay: Decoupled weight decay.
        schedule: How the rate goes after the warm-up: ``linear`` and ``cosine`` fall to zero.
        warmup_steps: Steps over which a round's rate rises, half of the round at most.
        max_grad_norm: Gradients are scaled down to this norm.
        steps: Optimizer steps of each round.
        first_steps: Steps of round 1. None means ``steps``.
        early_stopping: Ends a round's training early. None trains all steps.
        batch_size: Training examples of a batch.
        accumulation_steps: Batches whose gradients make one optimizer step.
        eval_batch_size: Examples evaluated at once.
        calibration_batches: Training batches whose gradients give the layers' sensitivities, and
            on which inputs are measured where something goes by them.
        precision: Number format of the matrix products in training: ``bfloat16`` (autocast),
            ``float32``, or ``auto``, bfloat16 where the device multiplies it in hardware.
        eval_precision: The same in evaluations.
        gradient_checkpointing: Computes activations again in the backward pass instead of keeping
            them, in models that can.
        checkpoint_steps: Steps after which an unfinished round's training is saved, or sooner if
            a minute has passed; a killed study continues from there.
        cache_mebibytes: Bound of the cache of weights and residual factors. Where it holds the
            dequantized weights of a whole set, switching costs nothing; else quantized ones are
            kept, and dequantized at each switch.
        device: PyTorch device, such as ``cpu`` or ``cuda``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    later_learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    schedule: Schedule = "linear"
    warmup_steps: int = Field(default=10, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    steps: int = Field(default=200, ge=1)
    first_steps: int | None = Field(default=None, ge=1)
    early_stopping: EarlyStopping | None = None
    batch_size: int = Field(default=32, ge=1)
    accumulation_steps: int = Field(default=1, ge=1)
    eval_batch_size: int = Field(default=64, ge=1)
    calibration_batches: int = Field(default=8, ge=1)
    precision: Precision = "float32"
    eval_precision: Precision = "float32"
    gradient_checkpointing: bool = False
    checkpoint_steps: int = Field(default=100, ge=1)
    cache_mebibytes: int = Field(default=256, ge=0)
    device: str = "cpu"

    @field_validator("device")
    @classmethod
    def _known_device(cls, name: str) -> str:
        parse_device(name)
        return name

    @property
    def scaling(self) -> float:
        """LoRA's α / r."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def batch_configurations(self) -> int:
        """How many configurations share the examples of a batch."""
        return 1

    @property
    def set_sampling(self) -> SamplingOptions:
        """How configurations are drawn from the set."""
        return SamplingOptions()

    def rate_scale(self, round: int) -> float:
        """Return what a round's learning rates are multiplied by; rounds count from 1."""
        if round == 1 or self.later_learning_rate is None:
            return 1.0
        return self.later_learning_rate / self.learning_rate

    def round_steps(self, round: int) -> int:
        """Return the greatest number of optimizer steps of a round; rounds count from 1."""
        return self.first_steps if round == 1 and self.first_steps is not None else self.steps


class SetTrainingOptions(TrainingOptions):
    """Options of methods with one adapter for a whole set.

    Args:
        configurations_per_step: Configurations that share the examples of a batch.
        sampling: Which configurations of the set those are.
    """

    configurations_per_step: int = Field(default=2, ge=1)
    sampling: SamplingOptions = SamplingOptions()

    @property
    def batch_configurations(self) -> int:
        """How many configurations share the examples of a batch."""
        return self.configurations_per_step

    @property
    def set_sampling(self) -> SamplingOptions:
        """How configurations are drawn from the set."""
        return self.sampling

    @model_validator(mode="after")
    def _few_enough(self) -> SetTrainingOptions:
        if self.configurations_per_step > self.batch_size:
            raise ValueError(f"configurations_per_step must be at most {self.batch_size}")
        return self
