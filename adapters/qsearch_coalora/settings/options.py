"""What every method of this package trains with: optimizer, data, steps, evaluation.

docs/studies.md has a table of each class's fields.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qsearch_coalora.settings.device import Precision, parse_device

Schedule = Literal["linear", "cosine", "constant"]

Loss = Literal["task", "kl", "mixed"]
"""What training lowers: the task's loss, the divergence from the unquantized model, or the mean of
both."""

NOT_OF_THE_RESULT = frozenset({"checkpoint_steps", "cache_mebibytes"})
"""Options that change no result."""


class EarlyStopping(BaseModel):
    """Ends a round's training when the loss on held-out training examples no longer falls.

    The round ends with the adapter of the least held-out loss, which can be that it began with.
    Looks begin when all that is trained has joined, and are ``every`` steps apart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    examples: int = Field(default=256, ge=2)
    every: int = Field(default=50, ge=1)
    patience: int = Field(default=3, ge=1)
    configurations: int = Field(default=4, ge=1)


class SamplingOptions(BaseModel):
    """Which configurations of the set a step is trained under."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["uniform", "segment", "loss"] = "uniform"
    segments: int = Field(default=8, ge=1)


class TrainingOptions(BaseModel):
    """Options that all methods share, so that they compare under equal conditions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    loss: Loss | None = None
    adapter_bits: Literal[8] | None = None
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
    calibrate_by: Literal["gradients", "inputs"] | None = None
    precision: Precision = "float32"
    eval_precision: Precision = "float32"
    gradient_checkpointing: bool = False
    checkpoint_steps: int = Field(default=100, ge=1)
    cache_mebibytes: int = Field(default=256, ge=0)
    reference_mebibytes: int = Field(default=256, ge=0)
    device: str = "cpu"

    @field_validator("device")
    @classmethod
    def _known_device(cls, name: str) -> str:
        if name != "cpu":
            parse_device(name)
        return name

    @property
    def scaling(self) -> float:
        """LoRA's α / r."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def searched_ranks(self) -> tuple[int, ...]:
        """Ranks that the search may give a layer; none where all layers have ``rank``."""
        return ()

    @property
    def entry_rank(self) -> int:
        """Rank of factors that are trained for each layer configuration of each layer by itself."""
        return 0

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
        configurations_per_step: Configurations that share the examples of a batch. Without it they
            are as many as a batch has examples, if those are fewer.
    """

    configurations_per_step: int = Field(default=2, ge=1)
    sampling: SamplingOptions = SamplingOptions()

    @property
    def batch_configurations(self) -> int:
        """How many configurations share the examples of a batch."""
        return min(self.configurations_per_step, self.batch_size)

    @property
    def set_sampling(self) -> SamplingOptions:
        """How configurations are drawn from the set."""
        return self.sampling

    @model_validator(mode="after")
    def _few_enough(self) -> SetTrainingOptions:
        given = "configurations_per_step" in self.model_fields_set
        if given and self.configurations_per_step > self.batch_size:
            raise ValueError(f"configurations_per_step must be at most {self.batch_size}")
        return self
