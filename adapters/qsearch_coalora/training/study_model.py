"""A study's model, data and adapter in memory, which the parts of a trainer work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qsearch.errors import InputError
from qsearch.models.discovery import (
    discover_layers,
    discover_tables,
    matching_layers,
    require_same_layers,
)
from qsearch.plugins.capabilities import SupportsDataCheck
from qsearch.plugins.digests import Inputs
from qsearch.plugins.protocols import LoadedModel, Quantizer, Split, Task
from qsearch.plugins.quantizer_capabilities import (
    needs_inputs,
    storage_bits_of,
)
from qsearch.plugins.references import SupportsReference
from qsearch.space.configuration import Configuration
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.adapter.shape import PLAIN_LORA, AdapterShape
from qsearch_coalora.models.architectures import ModelShape
from qsearch_coalora.models.loading import (
    HEADLESS,
    load_shape,
    require_gradient_checkpointing,
)
from qsearch_coalora.models.model_shape import position_limit
from qsearch_coalora.settings.device import require_device
from qsearch_coalora.settings.memory import clear_memory_errors
from qsearch_coalora.settings.options import TrainingOptions
from qsearch_coalora.tasks.workload import require_positions, task_workload
from qsearch_coalora.training.data_facts import DataFacts
from qsearch_coalora.training.reference import References, require_room

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qsearch_coalora.adapter.adapted_model import AdaptedModel
    from qsearch_coalora.training.sampling import BatchStream


@dataclass(eq=False)
class StudyModel:
    """What a trainer is made from, and the model and data that are loaded of it at first use.

    Args:
        complete: Puts into the adapted model what the method adds, when it has been made.
        shape: What the method's adapter adds to plain LoRA.
        svd_rank: How many singular vectors the method takes of each weight's error, and the option
            that says so, for messages.
        details: What saved states must agree in, too, by its name in messages.
        embeddings: Whether tables are layers too; set before anything is asked for.
    """

    options: TrainingOptions
    model: ModelSpec
    task: Task
    quantizer: Quantizer
    seed: int
    complete: Callable[[AdaptedModel], None] = lambda adapted: None
    shape: AdapterShape = PLAIN_LORA
    svd_rank: tuple[int, str] = (0, "")
    details: Mapping[str, Any] = field(default_factory=dict)
    facts: DataFacts = field(default_factory=DataFacts)
    references: References = field(default_factory=References)
    embeddings: bool = False

    @cached_property
    def model_shape(self) -> tuple[ModelShape, tuple[str, ...]]:
        """The model's shape, without loading weights, and notes for the user.

        A task says by ``auto_class`` which class of transformers it loads, for an output head; a
        model of another task counts as one without.
        """
        auto_class = getattr(self.task, "auto_class", HEADLESS)
        return load_shape(self.model, auto_class if self.embeddings else None)

    @cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The model's quantizable layers, without loading weights: those of blocks, then tables.

        Whatever patterns the study has for layers, they are not for tables.
        """
        shape, _ = self.model_shape
        return matching_layers(shape.layers, self.model.layers) + shape.tables

    def require_rank(self) -> None:
        """Raise InputError for a rank that some layer's weight does not have."""
        rank, option = self.svd_rank
        least = min(min(layer.shape) for layer in self.layers if not layer.is_table)
        if rank > least:
            raise InputError(
                f"{option} {rank} is above the least feature count of the model's layers, {least}"
            )

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model with its data prepared; reading it loads both."""
        from qsearch_coalora.training.early_stopping import hold_out

        require_room(self, task_workload(self.task))
        self.require_rank()
        require_device(self.options.device)
        hold_out(self.task, self.options.early_stopping)
        if not self.facts.kept and isinstance(self.task, SupportsDataCheck):
            self.task.require_data()
        loaded = self.task.load_model(self.model, self.seed)
        own = discover_layers(loaded.module, self.model.layers)
        names = {layer.name for layer in self.layers if layer.is_table}
        if names:
            own += tuple(one for one in discover_tables(loaded.module) if one.name in names)
        require_same_layers(self.layers, own)
        require_positions(position_limit(loaded.module), task_workload(self.task))
        if self.options.gradient_checkpointing:
            require_gradient_checkpointing(loaded.module)
        if not self.facts.kept:
            self.task.prepare(loaded.tokenizer)
        return loaded

    @cached_property
    def adapted(self) -> AdaptedModel:
        """The adapted model, complete; reading it loads the model and the data."""
        from qsearch_coalora.adapter.adapted_model import AdaptedModel
        from qsearch_coalora.training.calibration import calibrate

        with clear_memory_errors():
            adapted = AdaptedModel(
                self.loaded, self.layers, self.quantizer, self.options, self.shape, self.seed
            )
            if needs_inputs(self.quantizer):
                calibrate(self, adapted)
            self.complete(adapted)
            return adapted

    @property
    def is_calibrated_by_gradients(self) -> bool:
        """Whether tokens count by gradients where a quantizer needs the layers' inputs.

        Of itself, where the loaded model's outputs mean something.
        """
        if self.options.calibrate_by is not None:
            return self.options.calibrate_by == "gradients"
        return isinstance(self.task, SupportsReference) and self.task.reference == "loaded"

    def measured(
        self, name: str, measure: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Return tensors that are measured on the data once in a study."""
        return self.facts.measured(name, self.task, measure)

    @cached_property
    def model_digests(self) -> dict[str, str]:
        """Which model it uses, which is loaded for it."""
        from qsearch_coalora.models.digests import model_digests

        _ = self.loaded  # What comes from the hub is there from now on.
        return model_digests(self.model)

    def input_digests(self, splits: Sequence[Split]) -> Inputs:
        """Return which model and which examples of some splits it uses; both are loaded for it."""
        from qsearch_coalora.models.digests import data_digests

        return Inputs(self.model_digests, data_digests(self.task, splits))

    def batches(self, generator: torch.Generator) -> BatchStream:
        """Return training batches without end, as the generator draws them."""
        from qsearch_coalora.training.sampling import BatchStream

        size = self.options.batch_size
        return BatchStream(lambda drawn: self.task.batches("train", size, drawn), generator)

    def calibration_batches(self) -> list[Mapping[str, Tensor]]:
        """Return the batches that inputs and gradients are measured on: the first of round 1."""
        import torch

        from qsearch_coalora.training.sampling import round_seeds

        batches = self.batches(torch.Generator().manual_seed(round_seeds(self.seed, 1).data))
        return [next(batches) for _ in range(self.options.calibration_batches)]

    def average_bits(self, configurations: Sequence[Configuration]) -> list[float]:
        """Return storage bits per quantized weight of configurations."""
        weights = sum(layer.parameters for layer in self.layers)
        return [
            sum(
                layer.parameters
                * storage_bits_of(self.quantizer, layer.shape, configuration[layer.name])
                for layer in self.layers
            )
            / weights
            for configuration in configurations
        ]

    @property
    def identity(self) -> dict[str, Any]:
        """What a saved state must agree in with this study."""
        return {
            "model": self.model.name,
            "layers": [layer.name for layer in self.layers],
            "quantizer": self.quantizer.name,
            "choices": {knob.name: list(knob.values) for knob in self.quantizer.choices().knobs},
            "rank": self.options.rank,
            "scaling": self.options.scaling,
            **self.details,
        }
