"""What a plugin may have besides its contract; the engine asks for each by ``isinstance``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from qsearch.plugins.digests import ExamplesDigest, Inputs
from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.protocols import Progress, QuantizedTensor, Quantizer, Split, TrainerState
from qsearch.space.configuration import Configuration, LayerConfiguration


@runtime_checkable
class SupportsExampleCount(Protocol):
    """What a task may have besides: then the search can tell a good configuration from a lucky one.

    Without it, the search takes the loss on the validation examples for the loss that matters. The
    loss must be a mean negative log-likelihood in nats, such as cross-entropy: sampling noise's
    variance follows from that.
    """

    def examples(self, split: Split) -> int:
        """Return how many independent predictions a split's mean loss is over.

        Such as texts that are classified, or tokens that are predicted. The engine asks after the
        trainer has trained or loaded a state, so the data are prepared.
        """
        ...


@runtime_checkable
class SupportsDataCheck(Protocol):
    """What a task may have besides: then ``qsearch check`` refuses data that a run would refuse."""

    def require_data(self) -> None:
        """Look whether the training and validation data are there, without reading them.

        A file's header is enough, and nothing is downloaded.

        Raises:
            InputError: If a file, a column or a package is missing; as :meth:`Task.prepare` would.
        """
        ...


@runtime_checkable
class SupportsDataDigest(Protocol):
    """What a task may have besides: then a trainer can tell its examples from others."""

    def data_digests(self) -> Mapping[str, ExamplesDigest]:
        """Return which examples the splits have that a study uses, by split.

        Asked after :meth:`Task.prepare`.
        """
        ...


@runtime_checkable
class SupportsInputDigests(Protocol):
    """What a trainer may have besides: then a study knows its model and its examples again.

    They are written down, and a study refuses to go on with others.
    """

    def input_digests(self) -> Inputs:
        """Return which weights and which examples it uses; both may be loaded for it."""
        ...


@runtime_checkable
class SupportsHoldOut(Protocol):
    """What a task may have besides: then a trainer can stop early."""

    def hold_out(self, examples: int) -> None:
        """Make a fixed random part of the training examples the split ``held-out``.

        Called before :meth:`Task.prepare`. The training split is then without them.

        Args:
            examples: How many. A task may round them, such as to whole sequences.
        """
        ...


@runtime_checkable
class SupportsFullPrecision(Protocol):
    """What a trainer may have besides: then a study knows what quantizing costs.

    It is for methods whose adapter serves all configurations, so that it means something where
    nothing is quantized.
    """

    def evaluate_full_precision(self, split: Split) -> Evaluation:
        """Evaluate the model with the adapter as it is and no weight quantized.

        What belongs to a configuration alone is left out. The state stays, and later evaluations
        come out as they would have.
        """
        ...


@dataclass(frozen=True)
class TrainingCheckpoint:
    """Where the state of a round's unfinished training is kept.

    Args:
        load: Returns what was saved of this round's training, or None.
        save: Saves a state in place of an earlier one.
    """

    load: Callable[[], TrainerState | None]
    save: Callable[[TrainerState], None]


NO_CHECKPOINT = TrainingCheckpoint(lambda: None, lambda state: None)
"""For a training that begins anew and cannot be gone on with."""


@runtime_checkable
class SupportsCheckpoints(Protocol):
    """What a trainer may have besides: then a killed round goes on within its training."""

    def train_resumably(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        unfinished: TrainingCheckpoint,
    ) -> TrainReport:
        """Do what :meth:`Trainer.train` does, from the saved state if there is one.

        The result is that of a training that was never stopped. A saved state of another set or
        round is not used.
        """
        ...


@runtime_checkable
class SupportsSeparateTraining(Protocol):
    """What a trainer may have besides: then workers train the configurations of a set at once.

    It is for methods that train each configuration alone: what comes out for one depends on no
    other, nor on an adapter that was loaded. The trainer must have :class:`SupportsCheckpoints`
    too.
    """

    def untrained(
        self, configurations: Sequence[Configuration], unfinished: TrainingCheckpoint
    ) -> Sequence[Configuration]:
        """Return those of a set, each once, that :meth:`train_resumably` would have to train."""
        ...

    def train_separately(self, configuration: Configuration) -> TrainerState:
        """Train a configuration, unless it is trained, and return what came out.

        A training that diverges is a result, too; the configuration fails when it is evaluated.
        The seconds that the result holds are those that this call took.
        """
        ...

    def adopt(
        self,
        trained: TrainerState,
        configurations: Sequence[Configuration] = (),
        unfinished: TrainingCheckpoint = NO_CHECKPOINT,
    ) -> None:
        """Take in what another process trained.

        Args:
            trained: What its :meth:`train_separately` returned.
            configurations: The set that is being trained; none where it was trained for an
                evaluation.
            unfinished: Where the set's unfinished training is kept; it is saved there now and then.
        """
        ...


@runtime_checkable
class SupportsCalibration(Protocol):
    """What a quantizer may have besides: then it suits a weight to what its layer is given.

    A trainer that knows of it measures the inputs of each layer of the model in full precision,
    without an adapter, if :attr:`needs_inputs` says so. Calls go through :func:`quantize_weight`.
    """

    @property
    def needs_inputs(self) -> bool:
        """Whether weights depend on inputs, which may follow from the options; constant."""
        ...

    def quantize_for_inputs(
        self, weight: Tensor, configuration: LayerConfiguration, moment: Tensor
    ) -> QuantizedTensor:
        """Do what :meth:`Quantizer.quantize` does, for a layer with known inputs.

        Each row's result depends on that row and the moment alone, so that rows can be sampled.
        Dequantizing needs no moment.

        Args:
            weight: Floating-point weight (output features × input features).
            configuration: One of the quantizer's layer configurations.
            moment: Second moment E[x·xᵀ] of the layer's inputs x, symmetric and positive
                semidefinite (input features × input features); zero where none was seen.

        Raises:
            InputError: If the moment has another shape, or the weight cannot be quantized.
        """
        ...


def needs_inputs(quantizer: Quantizer) -> bool:
    """Return whether a quantizer's weights depend on the second moments of their inputs."""
    return isinstance(quantizer, SupportsCalibration) and quantizer.needs_inputs


def quantize_weight(
    quantizer: Quantizer,
    weight: Tensor,
    configuration: LayerConfiguration,
    moment: Tensor | None,
) -> QuantizedTensor:
    """Quantize a weight for its inputs, if the quantizer minds them.

    Args:
        quantizer: The quantizer.
        weight: Floating-point weight (output features × input features).
        configuration: One of the quantizer's layer configurations.
        moment: Second moment of its inputs (input features × input features), or None where it is
            not known; a quantizer that needs it may refuse.
    """
    if moment is not None and isinstance(quantizer, SupportsCalibration) and quantizer.needs_inputs:
        return quantizer.quantize_for_inputs(weight, configuration, moment)
    return quantizer.quantize(weight, configuration)


@runtime_checkable
class SupportsFootprint(Protocol):
    """What a trainer may have besides: then budgets can be in bytes of files and memory."""

    def footprint(self) -> Footprint:
        """Return what the model takes on a device; the model may be loaded for it."""
        ...


@runtime_checkable
class SupportsFormatCheck(Protocol):
    """What a trainer may have besides: then an export that cannot be is refused at once."""

    def require_format(self, format: str) -> None:
        """Check that a format can hold the study's weights, without loading the model.

        Raises:
            InputError: If the format is unknown, or not for weights of the study's quantizer.
        """
        ...
