"""What the engine asks of every trainer of this package, and what answers it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from qsearch.errors import EvaluationError, InputError
from qsearch.plugins.capabilities import NO_CHECKPOINT, SupportsFullPrecision, TrainingCheckpoint
from qsearch.plugins.digests import STUDY_SPLITS, Inputs
from qsearch.plugins.engines import EngineEvaluation
from qsearch.plugins.evaluation import Evaluation, ReferenceScores, TrainReport
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.harness import RunHarness
from qsearch.plugins.protocols import Progress, Requirements, Split, Trainer, TrainerState
from qsearch.plugins.references import SupportsReference
from qsearch.plugins.source_precision import SourcePrecision
from qsearch.plugins.speed import ProductSpeed, SpeedConditions, SpeedProgress, SpeedTable
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch_coalora.estimation.requirements import estimate_requirements
from qsearch_coalora.export.job import AdapterJob
from qsearch_coalora.models.precision import source_precision
from qsearch_coalora.models.split_packages import terms_of
from qsearch_coalora.settings.memory import clear_memory_errors
from qsearch_coalora.settings.options import TrainingOptions
from qsearch_coalora.tasks.workload import require_positions, task_workload
from qsearch_coalora.training.reference import (
    Reference,
    require_distillation,
    require_room,
    room_note,
)
from qsearch_coalora.training.study_model import StudyModel

_TOKENS = 512
"""Length of a sequence where the task does not say its own."""


class Adapters(Protocol):
    """The adapters of a method: how they are trained, and which one a configuration has."""

    def train(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        checkpoint: TrainingCheckpoint,
    ) -> TrainReport:
        """Train for a set that is not empty."""
        ...

    def load(self, configuration: Configuration) -> None:
        """Put the adapter of a configuration into the model in memory."""
        ...

    def usable(self, configurations: Sequence[Configuration]) -> Sequence[Configuration]:
        """Return those of a set that have an adapter, or can have one."""
        ...

    def state(self) -> TrainerState:
        """Return all that was trained, and what it belongs to."""
        ...

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state, if it is this study's."""
        ...


class AdapterTrainer(Trainer):
    """A trainer that is composed of a study's model and the adapters of a method.

    Each method is a class that makes both, and gives some of these answers otherwise. The model
    and the data are loaded at first use.
    """

    Options: ClassVar[type[TrainingOptions]] = TrainingOptions
    method: ClassVar[str] = "LoRA"
    has_adapter: ClassVar[bool] = True
    """Whether exports have an adapter next to the quantized weights."""

    def __init__(self, study: StudyModel, adapters: Adapters) -> None:
        self.study = study
        self.adapters = adapters

    def layers(self) -> Sequence[LayerSpec]:
        """Return the model's quantizable layers, without loading weights."""
        return self.study.layers

    def search_embeddings(self) -> None:
        """Quantize the embedding and the output head too; neither has a LoRA."""
        self.study.embeddings = True

    def input_digests(self, splits: Sequence[Split] = STUDY_SPLITS) -> Inputs:
        """Return which model and which examples it uses; both are loaded for it."""
        return self.study.input_digests(splits)

    # What it takes

    def requirements(self) -> Requirements:
        """Return what the study needs, without loading weights or data.

        Raises:
            InputError: If the task's examples are too long for the model, the rank too great, or
                the room for what evaluations are compared with too small.
        """
        study = self.study
        workload = task_workload(study.task)
        require_room(study, workload)
        study.require_rank()
        require_distillation(study)
        shape, notes = study.model_shape
        require_positions(shape.positions, workload)
        return estimate_requirements(
            shape,
            study.layers,
            study.quantizer,
            study.options,
            workload,
            notes + room_note(study, workload),
            study.is_calibrated_by_gradients,
        )

    def source_precision(self) -> SourcePrecision | None:
        """Return in which types the model's files store its weights."""
        return source_precision(self.study.model)

    def terms(self) -> str | None:
        """Return what the model's user must be told of its licence."""
        return terms_of(self.study.model.name)

    def footprint(self) -> Footprint:
        """Return what the model takes on a device."""
        from qsearch_coalora.estimation.footprint import model_footprint
        from qsearch_coalora.weights.switching import FULL_PRECISION

        workload = task_workload(self.study.task)
        tokens = _TOKENS if workload is None else workload.example_tokens
        return model_footprint(self._job(FULL_PRECISION), tokens, self.has_adapter)

    # Training

    def train(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None = None,
    ) -> TrainReport:
        """Train on the expected loss over a set; see :meth:`train_resumably`."""
        return self.train_resumably(configurations, round, progress, NO_CHECKPOINT)

    def train_resumably(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None,
        checkpoint: TrainingCheckpoint,
    ) -> TrainReport:
        """Train on the expected loss over a set, from the saved step if there is one.

        Raises:
            InputError: If the set is empty.
            QsearchError: If a loss or its gradient stops being finite, or memory runs out; the
                adapter in memory must not be used then.
        """
        _require_configurations(configurations)
        self.study.references.forget_round()
        return self.adapters.train(configurations, round, progress, checkpoint)

    # Evaluation and scores of layers

    def evaluate(
        self, configurations: Sequence[Configuration], split: Split
    ) -> Sequence[Evaluation]:
        """Evaluate configurations on the same batches, in the order given.

        Raises:
            EvaluationError: If a configuration cannot be quantized or evaluated.
        """
        from qsearch_coalora.training.evaluation import evaluate

        reference = self.reference(split)
        return tuple(
            evaluate(self.study, partial(self.place, configuration), split, reference)
            for configuration in configurations
        )

    def reference(self, split: Split) -> Reference | None:
        """Return what evaluations on a split are compared with, if they are.

        Where each configuration has an adapter of its own, no model of the round is unquantized.
        """
        task = self.study.task
        if not isinstance(task, SupportsReference) or not self.study.options.reference_mebibytes:
            return None
        if task.reference == "round" and not isinstance(self, SupportsFullPrecision):
            return None
        try:
            with clear_memory_errors():
                return self.study.references.of(self.study, task, split)
        except (RuntimeError, ValueError) as error:
            raise EvaluationError(
                f"the unquantized model cannot be evaluated: {type(error).__name__}: {error}"
            ) from error

    def prepare_reference(self, directory: Path) -> ReferenceScores | None:
        """Make what evaluations are compared with; see :class:`SupportsReferenceFile`."""
        self.study.references.folder = directory
        reference = self.reference("validation")
        if reference is None:
            return None
        return ReferenceScores(reference.examples, reference.count)

    def evaluate_loaded(self, split: Split) -> Evaluation | None:
        """Evaluate the model as it is loaded, if the task compares configurations with it."""
        from qsearch_coalora.training.evaluation import evaluate

        task = self.study.task
        if not isinstance(task, SupportsReference) or task.reference == "round":
            return None
        reference = self.reference(split)
        with self.study.adapted.base_model():
            return evaluate(self.study, lambda: None, split, reference)

    def place(self, configuration: Configuration) -> None:
        """Make the model in memory the one of a configuration: its adapter and its weights."""
        self.adapters.load(configuration)
        self.study.adapted.use(configuration)

    def quantization_error(
        self, layer_configurations: Sequence[LayerConfiguration]
    ) -> npt.NDArray[np.float64]:
        """Return relative squared error ‖W−W̃‖²/‖W‖² (layers × layer configurations)."""
        from qsearch.models.quantization_error import quantization_errors

        weights = self.study.adapted.weights
        with clear_memory_errors():
            return quantization_errors(
                weights.originals,
                self.study.quantizer,
                layer_configurations,
                moments=weights.moments,
                layers=self.study.layers,
            )

    def sensitivity(
        self, configurations: Sequence[Configuration], round: int
    ) -> npt.NDArray[np.float64]:
        """Return the expected rise of the loss per unit of relative squared error (layers)."""
        from qsearch_coalora.training.layer_scores import sensitivities

        _require_configurations(configurations)
        usable = self.adapters.usable(configurations)
        return sensitivities(self.study, self.place, usable, round)

    # State

    def state(self) -> TrainerState:
        """Return all that was trained, and what it belongs to."""
        return self.adapters.state()

    def load_state(self, state: TrainerState) -> None:
        """Continue from a saved state, if it is this study's."""
        self.study.references.forget_round()
        self.adapters.load_state(state)

    # Export

    def data_facts(self) -> TrainerState:
        """Return what was measured on the data, and what the task knows of them."""
        _ = self.study.adapted
        return self.study.facts.state(self.study.task)

    def use_data_facts(self, facts: TrainerState) -> None:
        """Take what the study kept, so that exporting reads no data."""
        self.study.facts.use(facts, self.study.task, self.study.options.device)

    def export_job(self, configuration: Configuration) -> AdapterJob:
        """Return a configuration, ready to be written; its adapter is in the model in memory."""
        self.adapters.load(configuration)
        # Dequantized weights of all layers are a second float model.
        self.study.adapted.weights.restore()
        return self._job(configuration)

    def load_harness(self, tasks: Sequence[str], limit: int | None) -> RunHarness:
        """Return what runs tasks of lm_eval on packed exports, and on the loaded model."""
        from qsearch_coalora.harness.running import load_harness

        return load_harness(self.study, self.export_job, tasks, limit)

    # Engines

    engines: ClassVar[tuple[str, ...]] = ("llama.cpp",)

    def require_engine(self, engine: str) -> None:
        """Check that an engine is installed and runs the study's configurations."""
        from qsearch_coalora.llama_cpp.evaluating import require_engine

        require_engine(self.study, f"--in {engine}")

    def evaluate_in(
        self, engine: str, configuration: Configuration, split: Split
    ) -> EngineEvaluation:
        """Evaluate the files of a configuration in an engine, and measure their speed."""
        from qsearch_coalora.llama_cpp.evaluating import measure_job

        reference = self.reference(split)
        return measure_job(self.study, self.export_job(configuration), split, reference)

    def speed_conditions(self, threads: int) -> SpeedConditions:
        """Return what a speed is of that is measured here and now, in llama.cpp."""
        from qsearch_coalora.llama_cpp.speed import speed_conditions

        return speed_conditions(self.study, threads)

    def measure_speed(
        self,
        conditions: SpeedConditions,
        checked: Sequence[Configuration],
        known: Sequence[ProductSpeed] = (),
        show: SpeedProgress = lambda what: None,
    ) -> SpeedTable:
        """Measure the products that configurations consist of, and whole files."""
        from qsearch_coalora.llama_cpp.speed import measure_speed

        return measure_speed(self.export_job, conditions, checked, known, show)

    def _job(self, configuration: Configuration) -> AdapterJob:
        study = self.study
        tokenizer = study.loaded.tokenizer
        return AdapterJob(
            study.adapted, study.model, tokenizer, configuration, study.quantizer, self.method
        )


def _require_configurations(configurations: Sequence[Configuration]) -> None:
    if not configurations:
        raise InputError("a training set needs at least one configuration")
