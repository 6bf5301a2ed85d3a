"""CoA-LoRA: one configuration-aware adapter, trained on the expected loss over a set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Quantizer, Split, Task
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.adapter.shape import AdapterShape
from qsearch_coalora.methods.shared_adapter import SharedAdapter
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.settings.residual import RESIDUAL_RANK, ResidualOptions
from qsearch_coalora.settings.theta import ThetaOptions
from qsearch_coalora.training.residuals import prepare_residuals
from qsearch_coalora.training.study_model import StudyModel

THETA_RATE = 3.0
"""θ's peak rate over that of the factors, where none is given."""


class CoALoRAOptions(ResidualOptions):
    """Options of the CoA-LoRA trainer; those of its residual factors besides.

    The paper's text has residual factors in all of the rank; then only θ and the head learn the
    task, and SST-2 stays near chance.

    Args:
        init: ``shared`` trains one pair of factors for all configurations; ``residual`` fills
            some or all of the rank with the factors of W − W̃ of each configuration. What both
            are worth stands in docs/decisions, 0009.
        theta_learning_rate: Peak rate for θ. None means three times that of the factors; 0 leaves U
            near zero.
        theta_start: Share of round 1's steps that train plain LoRA, U = 0, before θ joins. None
            do where residual factors take all of the rank.
        theta: Shape of θ.
    """

    init: Literal["shared", "residual"] = "residual"
    theta_learning_rate: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    theta_start: float = Field(default=0.5, ge=0, lt=1)
    theta: ThetaOptions = ThetaOptions()

    @model_validator(mode="after")
    def _consistent(self) -> CoALoRAOptions:
        if self.init == "shared" and (self.residual_rank is not None or self.residual_turns):
            raise ValueError("residual_rank and residual_turns are only for init: residual")
        if self.theta.rank is not None and self.theta.rank > self.rank:
            raise ValueError(f"theta.rank {self.theta.rank} must be at most rank, {self.rank}")
        if self.fixed_rank == self.rank and not self.theta_rate:
            raise ValueError("theta_learning_rate must be above 0 where residual_rank is rank")
        return self

    @property
    def theta_rate(self) -> float:
        """Peak rate for θ."""
        if self.theta_learning_rate is None:
            return THETA_RATE * self.learning_rate
        return self.theta_learning_rate

    @property
    def fixed_rank(self) -> int:
        """How much of the rank holds residual factors."""
        return 0 if self.init == "shared" else super().fixed_rank


class CoALoRATrainer(AdapterTrainer):
    """Trains one configuration-aware adapter: L1·(I + U)·L2 with U = θ(configuration).

    (CoA-LoRA, ICLR 2026.)
    """

    Options = CoALoRAOptions
    method = "CoA-LoRA"

    def __init__(
        self, options: CoALoRAOptions, model: ModelSpec, task: Task, quantizer: Quantizer, seed: int
    ) -> None:
        rank = options.fixed_rank
        # Where residual factors are all of the rank, there is no plain LoRA to begin with.
        start = options.theta_start if rank < options.rank else 0.0
        # The additive adjustment's bases are drawn from the seed, not saved.
        drawn = {"basis_seed": seed} if options.theta.adjustment == "additive" else {}
        turns = {"residual_turns": options.turns} if options.turns else {}
        study = StudyModel(
            options,
            model,
            task,
            quantizer,
            seed,
            lambda adapted: prepare_residuals(study, adapted),
            AdapterShape(options.theta, options.theta_rate, start, rank),
            svd_rank=(rank, RESIDUAL_RANK),
            details={
                "residual_rank": rank,
                "residual_norm": options.residual_norm if rank else None,
                "theta": options.theta.model_dump(exclude_defaults=True) | drawn,
                **turns,
            },
        )
        super().__init__(study, SharedAdapter(study))

    def evaluate_full_precision(self, split: Split) -> Evaluation:
        """Evaluate the original weights with the shared factors: no U, no residual factors."""
        from qsearch_coalora.training.evaluation import evaluate_full_precision

        return evaluate_full_precision(self.study, split, self.reference(split))
