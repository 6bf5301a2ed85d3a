"""One adapter that serves all configurations."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.evaluation import TrainReport
from qsearch.plugins.protocols import Progress, TrainerState
from qsearch.space.configuration import Configuration
from qsearch_coalora.training.saved_state import require_own, saved_state
from qsearch_coalora.training.study_model import StudyModel


class SharedAdapter:
    """The adapter in memory, trained under configurations drawn from the set."""

    def __init__(self, study: StudyModel) -> None:
        self._study = study

    def train(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        checkpoint: TrainingCheckpoint,
    ) -> TrainReport:
        """Train the adapter from what it is, under those of the set that have a part of it."""
        from qsearch_coalora.training.loop import train_round

        ranks = self._study.adapted.ranks
        trained = [one for one in configurations if any(ranks.of(one))]
        return train_round(self._study, trained or configurations, round, progress, checkpoint)

    def load(self, configuration: Configuration) -> None:
        """Leave the adapter as it is: it is that of every configuration."""

    def usable(self, configurations: Sequence[Configuration]) -> Sequence[Configuration]:
        """Return all of them."""
        return configurations

    def state(self) -> TrainerState:
        """Return the trained tensors, and what they belong to."""
        return saved_state(self._study, self._study.adapted.tensors())

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state, if it is this study's."""
        require_own(self._study, state)
        self._study.adapted.load_tensors(state.tensors)
