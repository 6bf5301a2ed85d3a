"""What all trainers of this package have in common: one model, its evaluation, its state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qsearch.errors import EvaluationError, InputError
from qsearch.plugins.capabilities import NO_CHECKPOINT, TrainingCheckpoint
from qsearch.plugins.evaluation import Evaluation, TrainReport
from qsearch.plugins.protocols import (
    LoadedModel,
    Progress,
    Quantizer,
    Requirements,
    Scores,
    Split,
    Task,
    TrainerState,
)
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.adapter.adapted_model import AdaptedModel, AdapterShape, score
from qsearch_coalora.adapter.residual import RESIDUAL_RANK, require_rank
from qsearch_coalora.estimation.requirements import estimate_requirements
from qsearch_coalora.estimation.workload import require_positions, task_workload
from qsearch_coalora.models.digests import KnowsInputs
from qsearch_coalora.models.discovery import discover_layers, require_same_layers
from qsearch_coalora.models.loading import load_config, require_gradient_checkpointing, skeleton
from qsearch_coalora.tasks.standard_errors import weighted_mean
from qsearch_coalora.tasks.subsets import in_parts, one_example_in
from qsearch_coalora.training.calibration import calibrate
from qsearch_coalora.training.checkpoint import (
    digest,
    require_own,
    saved_state,
    training_identity,
)
from qsearch_coalora.training.device import parse_device, require_device
from qsearch_coalora.training.early_stopping import HeldOutLoss, followed_in, hold_out
from qsearch_coalora.training.exporting import ExportsModels
from qsearch_coalora.training.loop import RoundPlan, TrainingLoop
from qsearch_coalora.training.memory import telling_of_memory
from qsearch_coalora.training.options import TrainingOptions
from qsearch_coalora.training.precision import autocast, uses_bfloat16
from qsearch_coalora.training.sampling import BatchStream, SetSampler, uniform_pass
from qsearch_coalora.training.schedule import seeds
from qsearch_coalora.weights.average_bits import average_bits
from qsearch_coalora.weights.quantization_error import quantization_errors
from qsearch_coalora.weights.sensitivity import layer_sensitivities

_PARTS = 4
"""Least of a calibration batch: one at a time has all layers' inputs and gradients in memory."""


class AdapterTrainer(ExportsModels, KnowsInputs):
    """A trainer whose configurations share one model in memory.

    The model and the data are loaded at first use. Each round starts a fresh AdamW and a fresh
    learning-rate schedule, so a round's result depends on the saved tensors, the set, the seed
    and the round alone.

    Args:
        options: The trainer's options.
        model: Which model.
        task: Data, loss and metric.
        quantizer: The quantizer.
        seed: Seed of everything random.
    """

    Options: ClassVar[type[TrainingOptions]]
    method: ClassVar[str] = "LoRA"

    def __init__(
        self,
        options: Any,
        model: ModelSpec,
        task: Task,
        quantizer: Quantizer,
        seed: int,
    ) -> None:
        self.options = options
        self.model = model
        self.task = task
        self.quantizer = quantizer
        self.seed = seed

    # What a method decides

    @property
    def shape(self) -> AdapterShape:
        """What of the adapter there is beside plain LoRA; nothing unless a method says more."""
        return AdapterShape()

    @property
    def configurations_per_step(self) -> int:
        """How many configurations share the examples of a batch."""
        return 1

    def sampler(
        self, configurations: Sequence[Configuration], generator: torch.Generator
    ) -> SetSampler:
        """Return what draws the configurations that a round is trained under."""
        return SetSampler(len(configurations), uniform_pass, generator)

    def prepare(self, configuration: Configuration) -> None:
        """Make the model the one of a configuration."""
        self.activate(configuration)

    @torch.no_grad()
    def activate(self, configuration: Configuration) -> None:
        """Put a configuration's weights and adjustments under the adapter as it is."""
        self.adapted.activate(configuration)
        self.adapted.projections.set(self.adapted.adjustments(configuration))

    # The model and its layers

    @cached_property
    def _config(self) -> tuple[Any, tuple[str, ...]]:
        return load_config(self.model)

    @cached_property
    def _layers(self) -> tuple[LayerSpec, ...]:
        return discover_layers(skeleton(self._config[0], self.model), self.model.layers)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model with its data prepared; reading it loads both."""
        require_device(self.options.device)
        hold_out(self.task, self.options.early_stopping)
        loaded = self.task.load_model(self.model, self.seed)
        require_same_layers(self._layers, discover_layers(loaded.module, self.model.layers))
        require_positions(loaded.module, task_workload(self.task))
        if self.options.gradient_checkpointing:
            require_gradient_checkpointing(loaded.module)
        self.task.prepare(loaded.tokenizer)
        return loaded

    @cached_property
    def adapted(self) -> AdaptedModel:
        """The adapted model; reading it loads the model and the data."""
        with telling_of_memory():
            return self.make_adapted()

    def make_adapted(self) -> AdaptedModel:
        """Return the adapted model, with what a method puts into it."""
        adapted = AdaptedModel(
            self.loaded, self._layers, self.quantizer, self.options, self.shape, self.seed
        )
        calibrate(adapted, self.quantizer, self._batches)
        return adapted

    def layers(self) -> Sequence[LayerSpec]:
        """Return the model's quantizable layers, without loading weights.

        Raises:
            InputError: If the model has none that the study's patterns match.
        """
        return self._layers

    def requirements(self) -> Requirements:
        """Say what the study needs, without loading weights or data.

        Raises:
            InputError: If the task's examples are too long for the model, or the rank too great.
        """
        require_rank(self.shape.fixed_rank, self._layers, RESIDUAL_RANK)
        config, notes = self._config
        model, workload = skeleton(config, self.model), task_workload(self.task)
        require_positions(model, workload)
        study = self._layers, self.quantizer, self.options, self.configurations_per_step
        return estimate_requirements(model, *study, workload, notes)

    # Training

    def train(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None = None,
    ) -> TrainReport:
        """Train on the expected loss over a set; see :meth:`train_resumably`."""
        return self.train_resumably(configurations, round, progress, NO_CHECKPOINT)

    @telling_of_memory()
    def train_resumably(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        unfinished: TrainingCheckpoint,
    ) -> TrainReport:
        """Train on the expected loss over a set, from the saved step if there is one.

        What comes out is a function of state, set, seed and round.

        Args:
            configurations: The set; configurations are drawn from it at each step.
            round: Index of the round, from 0.
            progress: Called after each step.
            unfinished: Where the state of an unfinished round is kept.

        Raises:
            InputError: If the set is empty.
            QsearchError: If the loss or its gradient is no longer finite, or memory runs out; the
                adapter in memory must not be used then.
        """
        if not configurations:
            raise InputError("a training set needs at least one configuration")
        trains = digest(list(configurations), round, self._training_identity())
        loop = TrainingLoop(
            self.adapted, self.task, self.options, self._plan(configurations, round)
        )
        saved = unfinished.load()
        if saved is not None and saved.metadata.get("trains") == trains:
            loop.restore(saved)
        return loop.run(
            progress,
            lambda state: unfinished.save(
                TrainerState(state.tensors, {**state.metadata, "trains": trains})
            ),
        )

    def _plan(self, configurations: Sequence[Configuration], round: int) -> RoundPlan:
        data_seed, set_seed, dropout_seed = seeds(self.seed, round)
        return RoundPlan(
            round=round,
            configurations=configurations,
            sampler=self.sampler(configurations, torch.Generator().manual_seed(set_seed)),
            batches=self._batches(torch.Generator().manual_seed(data_seed)),
            dropout_seed=dropout_seed,
            parts=self.configurations_per_step,
            held_out=self._held_out(configurations),
        )

    def _batches(self, generator: torch.Generator) -> BatchStream:
        size = self.options.batch_size
        return BatchStream(lambda drawn: self.task.batches("train", size, drawn), generator)

    def _held_out(self, configurations: Sequence[Configuration]) -> HeldOutLoss | None:
        stopping = self.options.early_stopping
        if stopping is None:
            return None
        followed = followed_in(configurations, stopping.configurations, self.average_bits)
        return HeldOutLoss(stopping, followed, self._held_out_loss)

    def _held_out_loss(self, configuration: Configuration) -> float:
        self.activate(configuration)
        scores = self._scores("held-out", one_in=1)
        return weighted_mean(scores.losses, scores.weights)[0]

    def average_bits(self, configurations: Sequence[Configuration]) -> list[float]:
        """Return storage bits per quantized weight of configurations."""
        return average_bits(self.quantizer, self._layers, configurations)

    # Evaluation

    def evaluate(
        self, configurations: Sequence[Configuration], split: Split
    ) -> Sequence[Evaluation]:
        """Evaluate configurations on the same batches, in the order given.

        A loss that is not a number is returned as it is.

        Raises:
            EvaluationError: If a configuration cannot be quantized or evaluated.
        """
        return self.evaluate_part(configurations, split, one_in=1)

    def evaluate_part(
        self, configurations: Sequence[Configuration], split: Split, one_in: int
    ) -> Sequence[Evaluation]:
        """Evaluate configurations on every ``one_in``-th example, the same for all.

        Raises:
            EvaluationError: If a configuration cannot be quantized or evaluated.
        """
        return tuple(
            self._evaluate(configuration, split, one_in) for configuration in configurations
        )

    def _evaluate(self, configuration: Configuration, split: Split, one_in: int) -> Evaluation:
        return self.evaluate_model(lambda: self.prepare(configuration), split, one_in)

    def evaluate_model(
        self, prepare: Callable[[], object], split: Split, one_in: int = 1
    ) -> Evaluation:
        """Evaluate the model as something makes it, which counts for the evaluation's seconds."""
        started = time.perf_counter()
        self.adapted.peft_model.eval()
        try:
            with telling_of_memory():
                prepare()
                scores = self._scores(split, one_in)
        except (RuntimeError, ValueError, KeyError) as error:
            raise EvaluationError(f"evaluation failed: {type(error).__name__}: {error}") from error
        finally:
            self.adapted.projections.clear()
        loss, standard_error = weighted_mean(scores.losses, scores.weights)
        metric, metric_error = self.task.summarise(scores)
        return Evaluation(loss, standard_error, metric, metric_error, time.perf_counter() - started)

    @torch.no_grad()
    def _scores(self, split: Split, one_in: int) -> Scores:
        """Return what the model scores as it is, on the CPU."""
        options, device = self.options, parse_device(self.options.device)
        batches = self.task.batches(split, options.eval_batch_size)
        with autocast(uses_bfloat16(options.eval_precision, device), device):
            return Scores.concatenate([self._score(b) for b in one_example_in(one_in, batches)])

    def _score(self, batch: Mapping[str, Tensor]) -> Scores:
        return score(self.task, self.adapted.logits(batch), batch)

    # Scores of layers

    @telling_of_memory()
    def quantization_error(
        self, layer_configurations: Sequence[LayerConfiguration]
    ) -> npt.NDArray[np.float64]:
        """Return relative squared error ‖W−W̃‖²/‖W‖² (layers × layer configurations)."""
        weights = self.adapted.weights
        return quantization_errors(
            weights.originals, self.quantizer, layer_configurations, moments=weights.moments
        )

    @telling_of_memory()
    def sensitivity(
        self, configurations: Sequence[Configuration], round: int
    ) -> npt.NDArray[np.float64]:
        """Return the expected rise of the loss per unit of relative squared error (layers).

        From gradients of ``calibration_batches`` training batches, each under a configuration
        drawn from the set, with the adapter as it is now.

        Args:
            configurations: The set.
            round: Index of the round; with the seed, it draws batches and configurations.

        Raises:
            InputError: If the set is empty.
        """
        if not configurations:
            raise InputError("a training set needs at least one configuration")
        adapted = self.adapted
        adapted.peft_model.eval()
        data_seed, set_seed, _ = seeds(self.seed, round)
        batches = self._batches(torch.Generator().manual_seed(data_seed))
        generator = torch.Generator().manual_seed(set_seed)
        drawn = SetSampler(len(configurations), uniform_pass, generator)

        def runs() -> Iterator[Callable[[], Tensor]]:
            for _ in range(self.options.calibration_batches):
                self.prepare(configurations[next(drawn)])
                for part in in_parts(next(batches), max(_PARTS, self.configurations_per_step)):
                    yield lambda part=part: self._score(part).losses

        try:
            return layer_sensitivities(adapted.lora_layers, adapted.weights.originals, runs())
        finally:
            adapted.projections.clear()

    # State

    def state(self) -> TrainerState:
        """Return the trained tensors, and what they belong to."""
        return saved_state(self.adapted.tensors(), self._identity(), self.adapted.input_sizes())

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state.

        Raises:
            InputError: If the state belongs to another model, other options or other data.
        """
        require_own(state, self._identity(), self.adapted.input_sizes())
        self.adapted.load_tensors(state.tensors)

    def _identity(self) -> dict[str, Any]:
        """Return what a saved state must agree in with this trainer."""
        return {
            "model": self.model.name,
            "layers": [layer.name for layer in self._layers],
            "quantizer": self.quantizer.name,
            "choices": {knob.name: list(knob.values) for knob in self.quantizer.choices().knobs},
            "rank": self.options.rank,
            "scaling": self.options.scaling,
        }

    def _training_identity(self) -> dict[str, Any]:
        """Return what an unfinished training must agree in with this trainer."""
        return training_identity(self._identity(), self.seed, self.options, self.task)
