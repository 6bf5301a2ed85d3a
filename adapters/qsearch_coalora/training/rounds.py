"""One round's training, from a saved step where there is one."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import Progress, TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.settings.memory import clear_memory_errors
from qsearch_coalora.training.checkpoint import digest, training_identity
from qsearch_coalora.training.loop import TrainingLoop
from qsearch_coalora.training.study_model import StudyModel


@clear_memory_errors()
def train_round(
    study: StudyModel,
    configurations: Sequence[Configuration],
    round: int,
    progress: Progress | None,
    checkpoint: TrainingCheckpoint,
) -> TrainReport:
    """Train on the expected loss over a set, from the saved step if there is one.

    What comes out is a function of state, set, seed and round: each round starts a fresh AdamW
    and a fresh learning-rate schedule.

    Raises:
        QsearchError: If the loss or its gradient is no longer finite, or memory runs out; the
            adapter in memory must not be used then.
    """
    trains = digest(list(configurations), round, training_identity(study))
    loop = TrainingLoop(study, configurations, round)
    saved = checkpoint.load()
    if saved is not None and saved.metadata.get("trains") == trains:
        loop.restore(saved)

    def save(state: TrainerState) -> None:
        checkpoint.save(TrainerState(state.tensors, {**state.metadata, "trains": trains}))

    return loop.run(progress, save)
