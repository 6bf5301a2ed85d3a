"""What a plugin may have besides its contract; the engine asks for each by ``isinstance``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from qsearch.configuration import Configuration
from qsearch.evaluation import Evaluation, TrainReport
from qsearch.plugins import Progress, Split, TrainerState


@runtime_checkable
class CountsExamples(Protocol):
    """What a task may have besides: then the search can tell a good configuration from a lucky one.

    Without it, the search takes the loss on the validation examples for the loss that matters. The
    loss must be a mean negative log-likelihood in nats, such as cross-entropy: luck's variance
    follows from that.
    """

    def examples(self, split: Split) -> int:
        """Return how many independent predictions a split's mean loss is over.

        Such as texts that are classified, or tokens that are predicted. The engine asks after the
        trainer has trained or loaded a state, so the data are prepared.
        """
        ...


@runtime_checkable
class HoldsOut(Protocol):
    """What a task may have besides: then a trainer can stop early."""

    def hold_out(self, examples: int) -> None:
        """Make a fixed random part of the training examples the split ``held-out``.

        Called before :meth:`Task.prepare`. The training split is then without them.

        Args:
            examples: How many. A task may round them, such as to whole sequences.
        """
        ...


@runtime_checkable
class EvaluatesPart(Protocol):
    """What a trainer may have besides: then a study can screen candidates."""

    def evaluate_part(
        self, configurations: Sequence[Configuration], split: Split, one_in: int
    ) -> Sequence[Evaluation]:
        """Evaluate configurations on one example in ``one_in`` of a split, the same for all."""
        ...


@dataclass(frozen=True)
class UnfinishedTraining:
    """Where the state of a round's unfinished training is kept.

    Args:
        load: Returns what was saved of this round's training, or None.
        save: Saves a state in place of an earlier one.
    """

    load: Callable[[], TrainerState | None]
    save: Callable[[TrainerState], None]


KEPT_NOWHERE = UnfinishedTraining(lambda: None, lambda state: None)
"""For a training that begins anew and cannot be gone on with."""


@runtime_checkable
class ResumesTraining(Protocol):
    """What a trainer may have besides: then a killed round goes on within its training."""

    def train_resumably(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        unfinished: UnfinishedTraining,
    ) -> TrainReport:
        """Do what :meth:`Trainer.train` does, from the saved state if there is one.

        The result is that of a training that was never stopped. A saved state of another set or
        round is not used.
        """
        ...
