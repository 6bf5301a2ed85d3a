"""One adapter that serves all configurations."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.plugins.protocols import Progress, Split, TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.training.checkpoint import require_own, saved_state
from qsearch_coalora.training.evaluation import evaluate
from qsearch_coalora.training.loop import train_round


class SharedAdapterTrainer(AdapterTrainer):
    """Trains the adapter in memory, from what it is, under configurations drawn from the set."""

    def _train_set(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        checkpoint: TrainingCheckpoint,
    ) -> TrainReport:
        return train_round(self.study, configurations, round, progress, checkpoint)

    def state(self) -> TrainerState:
        """Return the trained tensors, and what they belong to."""
        return saved_state(self.study, self.study.adapted.tensors())

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state, if it is this study's."""
        require_own(self.study, state)
        self.study.adapted.load_tensors(state.tensors)

    def evaluate_full_precision(self, split: Split) -> Evaluation:
        """Evaluate the original weights with the adapter as it is trained: W + L1·L2.

        θ's adjustment U is zero, and where the rank holds residual factors, there are none: the
        residual of what is not quantized is zero.

        Raises:
            EvaluationError: If it cannot be evaluated.
        """
        with self.study.adapted.unquantized():
            return evaluate(self.study, lambda: None, split)
