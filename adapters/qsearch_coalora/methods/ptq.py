"""PTQ: the model is fine-tuned in full precision, then quantized, with no adapter beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qsearch.errors import InputError
from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.protocols import Progress, Requirements, TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.export.formats import WHOLE_MODELS
from qsearch_coalora.training.full_precision import FullPrecisionTrainer
from qsearch_coalora.training.options import TrainingOptions
from qsearch_coalora.weights.cache import FULL_PRECISION


class PTQOptions(TrainingOptions):
    """Options of post-training quantization.

    Args:
        fine_tune: Whether round 1 trains a LoRA in full precision, which is then merged into the
            weights. Without it the model is quantized as it is.
    """

    fine_tune: bool = True


class PTQTrainer(FullPrecisionTrainer):
    """Fine-tunes in full precision, merges, and quantizes; later rounds train nothing."""

    Options = PTQOptions
    options: PTQOptions
    export_formats = WHOLE_MODELS

    def requirements(self) -> Requirements:
        """Say what the study needs: one fine-tuning, or none."""
        needs = super().requirements()
        first = needs.training_flops[0] if self.options.fine_tune else 0.0
        return replace(needs, training_flops=(first, 0.0))

    def footprint(self) -> Footprint:
        """Return what the model takes on a device: no adapter, since it is merged."""
        return replace(super().footprint(), adapter_bytes=0)

    def train_resumably(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        unfinished: TrainingCheckpoint,
    ) -> TrainReport:
        """Fine-tune in full precision in round 1; see :meth:`AdapterTrainer.train`.

        Raises:
            InputError: If the set is empty.
        """
        if not configurations:
            raise InputError("a training set needs at least one configuration")
        if round > 0 or not self.options.fine_tune:
            return TrainReport(0, 0.0, ())
        self.adapted.merge(False)
        report = super().train_resumably([FULL_PRECISION], round, progress, unfinished)
        self.adapted.merge(True)
        return report

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state, merged; see :meth:`AdapterTrainer.load_state`."""
        super().load_state(state)
        self.adapted.merge(True)
