"""PTQ: the model is fine-tuned in full precision, then quantized, with no adapter next to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.plugins.protocols import (
    Progress,
    Quantizer,
    Requirements,
    Split,
    Task,
    TrainerState,
)
from qsearch.space.configuration import Configuration
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.methods.shared_adapter import SharedAdapter
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.settings.options import TrainingOptions
from qsearch_coalora.training.study_model import StudyModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from qsearch_coalora.llama_cpp.evaluating import FileEvaluations


class PTQOptions(TrainingOptions):
    """Options of post-training quantization.

    Args:
        fine_tune: Whether round 1 trains a LoRA in full precision, which is then merged into the
            weights. Without it the model is quantized as it is.
        evaluate_in: ``llama.cpp`` evaluates each configuration as its GGUF file runs there; null as
            PyTorch computes it.
    """

    fine_tune: bool = True
    evaluate_in: Literal["llama.cpp"] | None = None


class MergedAdapter(SharedAdapter):
    """An adapter that is trained once, in full precision, and then merged into the weights."""

    def __init__(self, study: StudyModel, fine_tunes: bool) -> None:
        super().__init__(study)
        self._fine_tunes = fine_tunes

    def train(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        checkpoint: TrainingCheckpoint,
    ) -> TrainReport:
        """Fine-tune in full precision in round 1; later rounds train nothing."""
        from qsearch_coalora.weights.switching import FULL_PRECISION

        if round > 1 or not self._fine_tunes:
            return TrainReport(0, 0.0, ())
        adapted = self._study.adapted
        adapted.merge(False)
        report = super().train([FULL_PRECISION], round, progress, checkpoint)
        adapted.merge(True)
        return report

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state, merged."""
        super().load_state(state)
        self._study.adapted.merge(True)


class PTQTrainer(AdapterTrainer):
    """Fine-tunes in full precision, merges, and quantizes; later rounds train nothing."""

    Options = PTQOptions
    has_adapter = False

    def __init__(
        self, options: PTQOptions, model: ModelSpec, task: Task, quantizer: Quantizer, seed: int
    ) -> None:
        study = StudyModel(options, model, task, quantizer, seed)
        super().__init__(study, MergedAdapter(study, options.fine_tune))
        self._fine_tunes = options.fine_tune
        self._evaluates_in = options.evaluate_in

    def requirements(self) -> Requirements:
        """Return what the study needs: one fine-tuning, or none.

        Raises:
            InputError: If the engine that evaluates is not installed, or does not run its files.
        """
        if self._evaluates_in is not None:
            from qsearch_coalora.llama_cpp.evaluating import require_engine

            require_engine(self.study, f"trainer.evaluate_in {self._evaluates_in}")
        needs = super().requirements()
        first = needs.training_flops[0] if self._fine_tunes else 0.0
        return replace(needs, training_flops=(first, 0.0))

    def evaluate(
        self, configurations: Sequence[Configuration], split: Split
    ) -> Sequence[Evaluation]:
        """Evaluate configurations on the same batches, as the study says: by PyTorch, or as files.

        Raises:
            EvaluationError: If a configuration cannot be quantized or evaluated.
        """
        if self._evaluates_in is None:
            return super().evaluate(configurations, split)
        reference = self.reference(split)
        return tuple(
            self._files.evaluate(self.export_job(configuration), split, reference)
            for configuration in configurations
        )

    @property
    def sensitivity_is_fixed(self) -> bool:
        """Whether nothing is trained, so that sensitivities are those of the loaded model."""
        return not self._fine_tunes

    def sensitivity(
        self, configurations: Sequence[Configuration], round: int
    ) -> npt.NDArray[np.float64]:
        """Return the expected rise of the loss per unit of relative squared error (layers).

        Where nothing is trained, what rises is the divergence from the loaded model, whatever the
        set.
        """
        if self._fine_tunes:
            return super().sensitivity(configurations, round)
        from qsearch_coalora.training.layer_scores import sensitivities
        from qsearch_coalora.weights.switching import FULL_PRECISION

        return sensitivities(self.study, self.place, [FULL_PRECISION], round, own_labels=True)

    @cached_property
    def _files(self) -> FileEvaluations:
        from qsearch_coalora.llama_cpp.evaluating import FileEvaluations

        return FileEvaluations(self.study)

    def evaluate_full_precision(self, split: Split) -> Evaluation:
        """Evaluate the fine-tuned weights, not quantized."""
        from qsearch_coalora.training.evaluation import evaluate_full_precision

        return evaluate_full_precision(self.study, split, self.reference(split))
