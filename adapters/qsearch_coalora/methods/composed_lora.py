"""Composed LoRA: factors by layer and layer configuration, next to factors that all share."""

from __future__ import annotations

from pydantic import Field

from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Quantizer, Split, Task
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.adapter.shape import AdapterShape
from qsearch_coalora.methods.shared_adapter import SharedAdapter
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.settings.residual import RESIDUAL_RANK, ResidualOptions
from qsearch_coalora.training.residual_norms import use_residual_norms
from qsearch_coalora.training.study_model import StudyModel


class ComposedLoRAOptions(ResidualOptions):
    """Options of Composed LoRA.

    Args:
        residual_learning_rate: Peak rate for the factors of layer configurations. None means that
            of the shared ones.
    """

    residual_learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @property
    def entry_rank(self) -> int:
        """Rank of factors that are trained for each layer configuration of each layer by itself."""
        return self.fixed_rank

    @property
    def rows_rate(self) -> float:
        """Peak rate for the factors of layer configurations."""
        if self.residual_learning_rate is None:
            return self.learning_rate
        return self.residual_learning_rate


class ComposedLoRATrainer(AdapterTrainer):
    """Trains factors for each layer configuration of each layer, from their residual factors.

    A configuration's adapter is composed of those of its layers, and of factors that all
    configurations share. So a configuration that no training has seen is made of trained parts.
    """

    Options = ComposedLoRAOptions
    method = "Composed LoRA"

    def __init__(
        self,
        options: ComposedLoRAOptions,
        model: ModelSpec,
        task: Task,
        quantizer: Quantizer,
        seed: int,
    ) -> None:
        rank = options.fixed_rank
        study = StudyModel(
            options,
            model,
            task,
            quantizer,
            seed,
            lambda adapted: use_residual_norms(study, adapted),
            AdapterShape(fixed_rank=rank, rows_rate=options.rows_rate),
            svd_rank=(rank, RESIDUAL_RANK),
            details={"residual_rank": rank, "residual_norm": options.residual_norm},
        )
        super().__init__(study, SharedAdapter(study))

    def evaluate_full_precision(self, split: Split) -> Evaluation:
        """Evaluate the original weights with the shared factors alone."""
        from qsearch_coalora.training.evaluation import evaluate_full_precision

        return evaluate_full_precision(self.study, split, self.reference(split))
