"""Shared-LoRA: one plain LoRA for all configurations."""

from __future__ import annotations

from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Quantizer, Split, Task
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.methods.shared_adapter import SharedAdapter
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.settings.options import SetTrainingOptions
from qsearch_coalora.training.study_model import StudyModel


class SharedLoRATrainer(AdapterTrainer):
    """Trains one LoRA on the expected loss over the set, without θ: the same for all of it."""

    Options = SetTrainingOptions
    method = "Shared-LoRA"

    def __init__(
        self,
        options: SetTrainingOptions,
        model: ModelSpec,
        task: Task,
        quantizer: Quantizer,
        seed: int,
    ) -> None:
        study = StudyModel(options, model, task, quantizer, seed)
        super().__init__(study, SharedAdapter(study))

    def evaluate_full_precision(self, split: Split) -> Evaluation:
        """Evaluate the original weights with the LoRA next to them."""
        from qsearch_coalora.training.evaluation import evaluate_full_precision

        return evaluate_full_precision(self.study, split, self.reference(split))
