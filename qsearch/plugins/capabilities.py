"""What a plugin may do in addition to its contract; the engine asks for each by ``isinstance``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from qsearch.plugins.digests import STUDY_SPLITS, ExamplesDigest, Inputs
from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.harness import RunHarness
from qsearch.plugins.protocols import (
    Measured,
    Progress,
    Quantizer,
    Split,
    TrainerState,
)
from qsearch.space.configuration import Configuration

if TYPE_CHECKING:
    from torch import Tensor

    from qsearch.space.configuration_space import ConfigurationSpace
    from qsearch.spec.sections import ModelSpec


@runtime_checkable
class SupportsExampleCount(Protocol):
    """Optional for tasks. With it, the search estimates losses without their sampling noise.

    The loss must be a mean negative log-likelihood in nats, such as cross-entropy: the variance of
    sampling noise follows from that.
    """

    def examples(self, split: Split) -> int | None:
        """Return how many independent predictions a split's mean loss is over: texts, or tokens.

        None if that is not known. Called after the trainer has trained or loaded a state, so the
        data are prepared.
        """
        ...


@runtime_checkable
class SupportsExampleWeights(Protocol):
    """Optional for tasks. With it, examples weigh in training as they do in evaluations.

    A training step shares its examples among batches and configurations, and has to know what each
    share counts before it has scored all of them. Without this, examples count alike there.
    """

    def example_weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what each example of a batch counts (n), as the weights of its scores."""
        ...


@runtime_checkable
class SupportsChanceLoss(Protocol):
    """Optional for tasks. With it, reports warn where a model does hardly better than guessing."""

    def chance_loss(self, split: Split) -> float:
        """Return what guessing loses on a split, nats, such as the entropy of its labels.

        Called when :meth:`SupportsExampleCount.examples` is.
        """
        ...


@runtime_checkable
class SupportsDataCheck(Protocol):
    """Optional for tasks. With it, ``qsearch check`` refuses data that a run would refuse."""

    def require_data(self) -> None:
        """Check that the training and validation data are there, by the headers of files alone.

        Raises:
            InputError: If a file, a column or a package is missing, as :meth:`Task.prepare` does.
        """
        ...


@runtime_checkable
class SupportsDataDigest(Protocol):
    """Optional for tasks. With it, a trainer can recognise its examples."""

    def data_digests(self, splits: Sequence[Split] = STUDY_SPLITS) -> Mapping[str, ExamplesDigest]:
        """Return the digests of those of some splits that have examples.

        Called after :meth:`Task.load_model`, but perhaps without :meth:`Task.prepare`.
        """
        ...


@runtime_checkable
class SupportsInputDigests(Protocol):
    """Optional for trainers. With it, no study continues with another model or other data.

    Nor is it evaluated with them, and what ``qsearch evaluate`` measures is kept.
    """

    def input_digests(self, splits: Sequence[Split] = STUDY_SPLITS) -> Inputs:
        """Return the digests of weights and of the examples of some splits.

        Both may be loaded for it; without splits, the examples are not read.
        """
        ...


@runtime_checkable
class SupportsHoldOut(Protocol):
    """Optional for tasks. With it, a trainer can stop early."""

    def hold_out(self, examples: int) -> None:
        """Move a fixed random part of the training examples to the split ``held-out``.

        Called before :meth:`Task.prepare`. A task may round the number, such as to whole sequences.
        """
        ...


@runtime_checkable
class SupportsEmbeddings(Protocol):
    """Optional for trainers. With it, ``space.embeddings`` can be true."""

    def search_embeddings(self) -> None:
        """Have :meth:`Trainer.layers` return embedding and output head too, after other layers.

        Called right after the trainer is made. See
        :func:`~qsearch.models.discovery.discover_tables`.

        Raises:
            InputError: If the trainer's method has no place for them.
        """
        ...


@runtime_checkable
class SupportsFixedSensitivity(Protocol):
    """Optional for trainers. With it, sensitivities may be known before the first set is made."""

    @property
    def sensitivity_is_fixed(self) -> bool:
        """Whether sensitivities are those of the loaded model, whatever the set and the round.

        They are then asked for with an empty set.
        """
        ...


@runtime_checkable
class SupportsFullPrecision(Protocol):
    """Optional for trainers. With it, a study reports what quantization costs.

    For methods whose adapter serves all configurations, so that it also means something where
    nothing is quantized.
    """

    def evaluate_full_precision(self, split: Split) -> Evaluation:
        """Evaluate the model with the adapter as it is and no weight quantized.

        What belongs to a single configuration is left out. Neither the state nor later evaluations
        change.
        """
        ...


@runtime_checkable
class SupportsTaskHarness(Protocol):
    """Optional for trainers. With it, ``qsearch evaluate --lm-eval`` runs tasks of a harness."""

    def load_harness(self, tasks: Sequence[str], limit: int | None) -> RunHarness:
        """Return what runs tasks on configurations under the state as it is when it is called.

        Tasks are names of the harness, or paths of task files. Their data are loaded, the model is
        not. ``limit`` is the greatest number of examples of a task; None is all.

        Raises:
            InputError: If the model is not of the harness's kind, the harness is not installed, or
                a task does not exist, or cannot be loaded.
        """
        ...


@dataclass(frozen=True)
class TrainingCheckpoint:
    """Where the state of a round's training is saved; a new state replaces the one before it."""

    load: Callable[[], TrainerState | None]
    save: Callable[[TrainerState], None]


NO_CHECKPOINT = TrainingCheckpoint(lambda: None, lambda state: None)
"""For a training that starts again and cannot be resumed."""


@runtime_checkable
class SupportsCheckpoints(Protocol):
    """Optional for trainers. With it, a killed round resumes within its training."""

    def train_resumably(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        checkpoint: TrainingCheckpoint,
    ) -> TrainReport:
        """Do what :meth:`Trainer.train` does, from the saved state if there is one.

        The result is that of a training that was never stopped. A saved state of another set or
        round is not used.
        """
        ...


@runtime_checkable
class SupportsSeparateTraining(Protocol):
    """Optional for trainers. With it, workers train the configurations of a set in parallel.

    For methods that train each configuration by itself: the result for one depends neither on
    others nor on an adapter that was loaded. :class:`SupportsCheckpoints` is needed too.
    """

    def untrained(
        self, configurations: Sequence[Configuration], checkpoint: TrainingCheckpoint
    ) -> Sequence[Configuration]:
        """Return those of a set, each once, that :meth:`train_resumably` would have to train."""
        ...

    def train_separately(self, configuration: Configuration) -> TrainerState:
        """Train a configuration, unless it is trained, and return the result.

        A training that diverges is a result too; the configuration fails when it is evaluated.
        The seconds in the result are those of this call.
        """
        ...

    def adopt(
        self,
        trained: TrainerState,
        configurations: Sequence[Configuration] = (),
        checkpoint: TrainingCheckpoint = NO_CHECKPOINT,
    ) -> None:
        """Add what another process's :meth:`train_separately` returned.

        ``configurations`` is the set that is being trained, none where it was for an evaluation;
        the checkpoint is where the set's training is saved, periodically.
        """
        ...


@runtime_checkable
class SupportsFootprint(Protocol):
    """Optional for trainers. With it, budgets can be in bytes of files and memory."""

    def footprint(self) -> Footprint:
        """Return what the model takes on a device; the model may be loaded for it."""
        ...


@runtime_checkable
class SupportsExport(Protocol):
    """Optional for trainers. With it, configurations can be exported in the formats of exporters.

    An exporter for all trainers writes what :class:`ExportJob` has. A trainer's own formats are
    exporters of its package, which name it.
    """

    def export_job(self, configuration: Configuration) -> ExportJob:
        """Return a configuration under the state as it is; the state stays as it is.

        It holds until the trainer's next call.
        """
        ...


@runtime_checkable
class SupportsDryRun(Protocol):
    """Optional for exporters. With it, ``qsearch export --dry-run`` says what an export takes."""

    def weight_bytes(self, job: ExportJob) -> Mapping[str, int]:
        """Return the bytes of each weight file that would be written, by its path in the folder.

        They follow from shapes and configuration; nothing is quantized.

        Raises:
            InputError: If the format cannot hold the configuration.
        """
        ...


@runtime_checkable
class SupportsQuantizerCheck(Protocol):
    """Optional for exporters. With it, an export that is impossible is refused at once."""

    def require_quantizer(self, quantizer: Quantizer) -> None:
        """Check that the format can hold what a quantizer makes.

        Raises:
            InputError: If it cannot; the message says what the format needs.
        """
        ...


@runtime_checkable
class SupportsTaskCheck(Protocol):
    """Optional for exporters. With it, formats for models of one kind are refused at once."""

    def require_task(self, task: Measured) -> None:
        """Check that the format can hold the models of a task.

        Raises:
            InputError: If it cannot; the message says for which models the format is.
        """
        ...


@runtime_checkable
class SupportsSpaceCheck(Protocol):
    """Optional for exporters. With it, ``qsearch check --format`` refuses what has no export."""

    def require_space(
        self, model: ModelSpec, quantizer: Quantizer, space: ConfigurationSpace
    ) -> Sequence[str]:
        """Check that the format can hold every configuration of a space, and return notes.

        The model is not loaded for it.

        Raises:
            InputError: If it cannot; the message names layers, and says what to search instead.
        """
        ...
