"""Contracts between the engine and its plugins: quantizers, tasks and trainers.

A plugin is a class named by an entry point, and constructed as

* ``qsearch.quantizers``: ``cls(options)``
* ``qsearch.tasks``: ``cls(options)``
* ``qsearch.trainers``: ``cls(options, model, task, quantizer, seed)``
* ``qsearch.exporters``: ``cls()``; see :mod:`qsearch.plugins.exporters`

All but exporters have a nested pydantic model ``Options`` (unknown fields forbidden) that validates
their section of a study YAML. Each may state ``contract: ClassVar[int]``, the version of these
contracts that it is written for; see :mod:`qsearch.plugins.contract`.

:mod:`qsearch.plugins.capabilities` has what is optional. Two more groups name functions:
``qsearch.reports`` has ``page``, which writes the report of study directories to a file,
``summary``, which returns a table for the terminal, and ``serve``, which shows a running study in
browsers; for ``qsearch.loggers`` see :mod:`qsearch.monitoring.loggers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from qsearch.plugins.evaluation import (
    Evaluation,
    ExampleScores,
    Metric,
    MetricValue,
    TrainReport,
)
from qsearch.space.configuration import Choices, Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qsearch.spec.sections import ModelSpec

Split = Literal["train", "held-out", "validation", "test"]
"""``held-out`` is training data that is not trained on; see :class:`SupportsHoldOut`."""
Progress = Callable[[int, int, float], None]
"""Called as ``progress(step, total steps, loss)``."""


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight (output features × input features) as named tensors, such as codes and scales."""

    tensors: Mapping[str, Tensor]
    shape: tuple[int, int]
    configuration: LayerConfiguration

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take in memory."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def rows(self, first: int, last: int) -> QuantizedTensor:
        """Return rows ``first`` to ``last``, where each tensor has one slice for each row."""
        tensors = {name: tensor[first:last] for name, tensor in self.tensors.items()}
        return QuantizedTensor(tensors, (last - first, self.shape[1]), self.configuration)


@runtime_checkable
class Quantizer(Protocol):
    """Turns a weight into codes and scales, under a layer configuration."""

    name: str

    def choices(self) -> Choices:
        """Return the knobs it has, and their ordered values."""
        ...

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return the exact storage bits per weight of a layer configuration."""
        ...

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a floating-point weight (output features × input features)."""
        ...

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features)."""
        ...


@dataclass(frozen=True)
class Scores:
    """What a task makes of a batch's logits.

    Args:
        losses: Mean loss of each example (n), nats.
        weights: What each counts in the mean (n), such as its number of predicted tokens.
        metrics: Values of each example (n) of the metrics that are their weighted mean, such as 1
            for a right answer; NaN where an example has none.
        details: What else :meth:`Task.summarise` needs, one-dimensional, of any length, such as a
            value of each token.
    """

    losses: Tensor
    weights: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    details: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def concatenate(cls, parts: Sequence[Scores]) -> Scores:
        """Join the scores of several batches, on the CPU."""
        import torch

        def joined(values: Sequence[Tensor]) -> Tensor:
            return torch.cat([value.cpu() for value in values])

        return cls(
            joined([part.losses for part in parts]),
            joined([part.weights for part in parts]),
            {name: joined([part.metrics[name] for part in parts]) for name in parts[0].metrics},
            {name: joined([part.details[name] for part in parts]) for name in parts[0].details},
        )

    def examples(self) -> ExampleScores:
        """Return what each example scored, as plain numbers."""
        return ExampleScores(
            tuple(self.losses.tolist()),
            tuple(self.weights.tolist()),
            {name: tuple(values.tolist()) for name, values in self.metrics.items()},
        )


@dataclass(frozen=True)
class LoadedModel:
    """A float32 model, task head included, with its tokenizer, which is opaque to the engine.

    ``head`` names the modules that are trained whole, next to the adapter: the task's head.
    """

    module: torch.nn.Module
    tokenizer: Any
    head: tuple[str, ...] = ()


class Measured(Protocol):
    """What results are of: a name, and the metrics next to the loss, the main one first."""

    name: str

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics; none in a study of an objective without one."""
        ...


class Task(Measured, Protocol):
    """Data, loss and metrics.

    It has one metric or more, by its options alone; the first is the main one, which reports show
    and which every evaluation has. An evaluation may lack others, such as F1 of three labels.
    """

    def load_model(self, model: ModelSpec, seed: int) -> LoadedModel:
        """Load the model with the head that this task needs; a new head is drawn from the seed.

        Raises:
            InputError: If the model cannot be found or has no such head.
        """
        ...

    def prepare(self, tokenizer: Any) -> None:
        """Read the data and encode it.

        Raises:
            InputError: If a file or column is missing.
        """
        ...

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Yield one pass over a split: shuffled by the generator, in fixed order without one."""
        ...

    def score(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Scores:
        """Score a batch from the model's logits; losses keep their graph."""
        ...

    def summarise(self, scores: Scores) -> Mapping[str, MetricValue]:
        """Return the metrics over the scored examples by name, those that are known."""
        ...


@dataclass(frozen=True)
class TrainerState:
    """All that a trainer needs to resume: tensors for safetensors, the rest for JSON."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Requirements:
    """What a study needs of its machine, as estimated before it runs.

    Args:
        parameters: Of the model.
        memory_bytes: At the peak of training.
        training_flops: In round 1, and in each later round.
        evaluation_flops: Of one configuration.
        first_evaluation_flops: Further ones of its first evaluation, such as for its own training.
        configuration_bytes: Memory that each evaluated configuration keeps, such as its adapter.
        notes: Sentences for the user, such as on a model that has to be downloaded first.
    """

    parameters: int
    memory_bytes: int
    training_flops: tuple[float, float] = (0.0, 0.0)
    evaluation_flops: float = 0.0
    first_evaluation_flops: float = 0.0
    configuration_bytes: int = 0
    notes: tuple[str, ...] = ()


class Trainer(Protocol):
    """Trains one adapter for a set of configurations and evaluates configurations under it."""

    def layers(self) -> Sequence[LayerSpec]:
        """Return the model's quantizable layers.

        Raises:
            InputError: If the model has none that the study's patterns match.
        """
        ...

    def requirements(self) -> Requirements:
        """Return what the study needs, without loading weights or data."""
        ...

    def train(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None = None,
    ) -> TrainReport:
        """Train on the expected loss over a set; a function of state, set, seed and round."""
        ...

    def evaluate(
        self, configurations: Sequence[Configuration], split: Split
    ) -> Sequence[Evaluation]:
        """Evaluate configurations on the same examples, in the order given."""
        ...

    def quantization_error(
        self, layer_configurations: Sequence[LayerConfiguration]
    ) -> npt.NDArray[np.float64]:
        """Return relative squared error ‖W−W̃‖²/‖W‖² (layers × layer configurations).

        Large weights may be sampled; the result is the same at each call.
        """
        ...

    def sensitivity(
        self, configurations: Sequence[Configuration], round: int
    ) -> npt.NDArray[np.float64]:
        """Return the expected rise of the loss per unit of each layer's relative squared error.

        Under the adapter as it is (layers); not negative; a common factor does not matter. A
        trainer that does not know returns each layer's number of weights, so that errors of all
        weights count the same. Equal state, set that was trained on, and round (from 1) give equal
        results.
        """
        ...

    def state(self) -> TrainerState:
        """Return what :meth:`load_state` needs to continue from here."""
        ...

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state.

        Raises:
            InputError: If the state belongs to another model or other options.
        """
        ...
