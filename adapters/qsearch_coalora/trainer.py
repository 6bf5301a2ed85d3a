"""The CoA-LoRA trainer: one adapter, trained on the expected loss over a set."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qsearch.configuration import Configuration, LayerConfiguration
from qsearch.errors import EvaluationError, InputError, QsearchError
from qsearch.evaluation import Evaluation, TrainReport
from qsearch.layers import LayerSpec
from qsearch.plugins import (
    LoadedModel,
    ModelSpec,
    Progress,
    Quantizer,
    Requirements,
    Scores,
    Split,
    Task,
    TrainerState,
)
from qsearch_coalora.adapted_model import AdaptedModel
from qsearch_coalora.device import require_device
from qsearch_coalora.discovery import discover_layers, require_same_layers
from qsearch_coalora.export import EXPORTERS, ExportJob
from qsearch_coalora.models import load_config, skeleton
from qsearch_coalora.options import CoALoRAOptions
from qsearch_coalora.part import one_example_in
from qsearch_coalora.quantization_error import quantization_errors
from qsearch_coalora.requirements import estimate_requirements
from qsearch_coalora.schedule import ramp, seeds, shuffled_passes
from qsearch_coalora.sensitivity import layer_sensitivities
from qsearch_coalora.statistics import weighted_mean
from qsearch_coalora.workload import require_positions, task_workload

_STATE_FORMAT = 1


class CoALoRATrainer:
    """Trains one configuration-aware adapter and evaluates configurations under it.

    The model and the data are loaded at first use. Each round starts a fresh AdamW and a fresh
    learning-rate ramp, so a round's result depends on the saved tensors, the set, the seed and
    the round alone.

    Args:
        options: The trainer's options.
        model: Which model.
        task: Data, loss and metric.
        quantizer: The quantizer.
        seed: Seed of everything random.
    """

    Options = CoALoRAOptions
    export_formats: ClassVar[tuple[str, ...]] = tuple(EXPORTERS)

    def __init__(
        self,
        options: CoALoRAOptions,
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

    @cached_property
    def _config(self) -> tuple[Any, tuple[str, ...]]:
        return load_config(self.model)

    @cached_property
    def _layers(self) -> tuple[LayerSpec, ...]:
        return discover_layers(skeleton(self._config[0]), self.model.layers)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model with its data prepared; reading it loads both."""
        require_device(self.options.device)
        loaded = self.task.load_model(self.model, self.seed)
        require_same_layers(self._layers, discover_layers(loaded.module, self.model.layers))
        require_positions(loaded.module, task_workload(self.task))
        self.task.prepare(loaded.tokenizer)
        return loaded

    @cached_property
    def adapted(self) -> AdaptedModel:
        """The adapted model; reading it loads the model and the data."""
        return AdaptedModel(self.loaded, self._layers, self.quantizer, self.options, self.seed)

    def layers(self) -> Sequence[LayerSpec]:
        """Return the model's quantizable layers, without loading weights.

        Raises:
            InputError: If the model has none that the study's patterns match.
        """
        return self._layers

    def requirements(self) -> Requirements:
        """Say what the study needs, without loading weights or data.

        Raises:
            InputError: If the task's examples are longer than the model can read.
        """
        config, notes = self._config
        model, workload = skeleton(config), task_workload(self.task)
        require_positions(model, workload)
        return estimate_requirements(model, self._layers, self.options, workload, notes)

    def train(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None = None,
    ) -> TrainReport:
        """Train on the expected loss over a set; a function of state, set, seed and round.

        Args:
            configurations: The set; configurations are drawn from it at each step.
            round: Index of the round, from 0.
            progress: Called after each step.

        Raises:
            InputError: If the set is empty.
            QsearchError: If the loss or its gradient is no longer finite; the adapter in memory
                must not be used then.
        """
        if not configurations:
            raise InputError("a training set needs at least one configuration")
        adapted = self.adapted
        total, scale = self.options.round_steps(round), self.options.rate_scale(round)
        data_seed, set_seed, dropout_seed = seeds(self.seed, round)
        batches = self._endless_batches(torch.Generator().manual_seed(data_seed))
        drawn = shuffled_passes(configurations, torch.Generator().manual_seed(set_seed))
        groups = adapted.parameter_groups()
        parameters = [parameter for group in groups for parameter in group["params"]]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.options.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: scale * ramp(step, total, self.options.warmup_steps)
        )
        before = adapted.weights.cache.counts
        losses: list[float] = []
        started = time.perf_counter()
        adapted.peft_model.train()
        try:
            with torch.random.fork_rng():
                torch.manual_seed(dropout_seed)
                for step in range(total):
                    losses.append(self._accumulate_gradients(next(batches), drawn))
                    norm = torch.nn.utils.clip_grad_norm_(parameters, self.options.max_grad_norm)
                    self._require_finite("loss", losses[-1], round, step)
                    self._require_finite("gradient norm", norm.item(), round, step)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                    if progress is not None:
                        progress(step + 1, total, losses[-1])
        finally:
            adapted.hooks.clear()
            optimizer.zero_grad()
        after = adapted.weights.cache.counts
        lookups = max(after.hits + after.misses - before.hits - before.misses, 1)
        return TrainReport(
            steps=total,
            seconds=time.perf_counter() - started,
            losses=tuple(losses),
            details={
                "cache_hit_rate": (after.hits - before.hits) / lookups,
                "cache_mebibytes": after.nbytes / 2**20,
            },
        )

    def _accumulate_gradients(
        self, batch: Mapping[str, Tensor], drawn: Iterator[Configuration]
    ) -> float:
        """Add the gradient of a batch's mean loss, its examples shared among configurations."""
        size = len(next(iter(batch.values())))
        parts = min(self.options.configurations_per_step, size)
        total = 0.0
        for offset in range(parts):
            part = {name: tensor[offset::parts] for name, tensor in batch.items()}
            configuration = next(drawn)
            self.adapted.activate(configuration)
            self.adapted.hooks.set(self.adapted.adjustments(configuration))
            scores = self._score(part)
            loss = (scores.losses * scores.weights).sum() / scores.weights.sum()
            share = len(range(offset, size, parts)) / size
            # Backward before the next switch: the weights it differentiates are replaced then.
            (loss * share).backward()  # type: ignore[no-untyped-call]
            total += loss.item() * share
        return total

    def _require_finite(self, what: str, value: float, round: int, step: int) -> None:
        if not math.isfinite(value):
            options = self.options
            rate = options.learning_rate * options.rate_scale(round)
            raise QsearchError(
                f"round {round}: the training {what} became {value} at step {step + 1} of"
                f" {options.round_steps(round)}; lower trainer.learning_rate (it is {rate:g} in"
                " this round) or trainer.theta_learning_rate"
            )

    def _endless_batches(self, generator: torch.Generator) -> Iterator[Mapping[str, Tensor]]:
        while True:
            yield from self.task.batches("train", self.options.batch_size, generator)

    def _score(self, batch: Mapping[str, Tensor]) -> Scores:
        logits = self.adapted.logits(batch)
        return self.task.score(logits, {k: v.to(logits.device) for k, v in batch.items()})

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

    @torch.no_grad()
    def _evaluate(self, configuration: Configuration, split: Split, one_in: int) -> Evaluation:
        adapted = self.adapted
        started = time.perf_counter()
        adapted.peft_model.eval()
        try:
            adapted.activate(configuration)
            adapted.hooks.set(adapted.adjustments(configuration))
            parts = [
                self._score(batch)
                for batch in one_example_in(
                    one_in, self.task.batches(split, self.options.eval_batch_size)
                )
            ]
        except (RuntimeError, ValueError, KeyError) as error:
            raise EvaluationError(f"evaluation failed: {type(error).__name__}: {error}") from error
        finally:
            adapted.hooks.clear()
        scores = Scores.concatenate([_on_cpu(part) for part in parts])
        loss, standard_error = weighted_mean(scores.losses, scores.weights)
        metric, metric_error = self.task.summarise(scores)
        return Evaluation(loss, standard_error, metric, metric_error, time.perf_counter() - started)

    def quantization_error(
        self, layer_configurations: Sequence[LayerConfiguration]
    ) -> npt.NDArray[np.float64]:
        """Return relative squared error ‖W−W̃‖²/‖W‖² (layers × layer configurations)."""
        return quantization_errors(
            self.adapted.weights.originals, self.quantizer, layer_configurations
        )

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
        batches = self._endless_batches(torch.Generator().manual_seed(data_seed))
        drawn = shuffled_passes(configurations, torch.Generator().manual_seed(set_seed))

        def run() -> Tensor:
            configuration = next(drawn)
            adapted.activate(configuration)
            adapted.hooks.set(adapted.adjustments(configuration).detach())
            return self._score(next(batches)).losses

        try:
            return layer_sensitivities(
                [layer.base_layer for layer in adapted.lora_layers],
                adapted.weights.originals,
                [run] * self.options.calibration_batches,
            )
        finally:
            adapted.hooks.clear()

    def state(self) -> TrainerState:
        """Return the trained tensors, and what they belong to."""
        return TrainerState(
            tensors=self.adapted.tensors(),
            metadata={
                "format": _STATE_FORMAT,
                "belongs_to": self._identity(),
                "versions": {
                    name: metadata.version(name) for name in ("torch", "transformers", "peft")
                },
            },
        )

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state.

        Raises:
            InputError: If the state belongs to another model or other options.
        """
        if state.metadata.get("format") != _STATE_FORMAT:
            raise InputError(
                f"the saved adapter has format {state.metadata.get('format')!r};"
                f" this qsearch reads {_STATE_FORMAT}"
            )
        saved, own = state.metadata.get("belongs_to", {}), self._identity()
        differing = {key: (saved.get(key), own[key]) for key in own if saved.get(key) != own[key]}
        if differing:
            details = "; ".join(
                f"{key} was {_short(was)}, is {_short(now)}"
                for key, (was, now) in differing.items()
            )
            raise InputError(f"the saved adapter belongs to another study: {details}")
        self.adapted.load_tensors(state.tensors)

    def _identity(self) -> dict[str, Any]:
        options = self.options
        choices = self.quantizer.choices()
        return {
            "model": self.model.name,
            "layers": [layer.name for layer in self._layers],
            "quantizer": self.quantizer.name,
            "choices": {knob.name: list(knob.values) for knob in choices.knobs},
            "rank": options.rank,
            "scaling": options.scaling,
            "residual_rank": options.fixed_rank,
            "theta": options.theta.model_dump(),
        }

    def export(self, configuration: Configuration, directory: Path, format: str) -> None:
        """Write one of :attr:`export_formats` for a configuration into a directory.

        Raises:
            InputError: If the format is unknown.
        """
        if format not in EXPORTERS:
            raise InputError(f"no export format {format!r}; this trainer has {list(EXPORTERS)}")
        directory.mkdir(parents=True, exist_ok=True)
        job = ExportJob(
            self.adapted,
            self.model,
            configuration,
            self.quantizer,
            lambda: self.task.load_model(self.model, self.seed),
        )
        EXPORTERS[format](job, directory)


def _on_cpu(scores: Scores) -> Scores:
    return Scores(scores.losses.cpu(), scores.metrics.cpu(), scores.weights.cpu())


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
