"""Composed LoRA: factors by layer and layer configuration, next to factors that all share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from qsearch_quantizers.packed.adapter_bytes import adapter_bytes

from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Quantizer, Split, Task
from qsearch.plugins.trainer_knobs import without_trainer_knobs
from qsearch.space.configuration import Knob, KnobValue, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.adapter.layer_ranks import RANK
from qsearch_coalora.adapter.shape import AdapterShape
from qsearch_coalora.methods.shared_adapter import SharedAdapter
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.settings.memory import clear_memory_errors
from qsearch_coalora.settings.residual import RESIDUAL_RANK, ResidualOptions
from qsearch_coalora.training.residuals import prepare_residuals
from qsearch_coalora.training.study_model import StudyModel

TURNS = 4
"""At 2 bits and rank 8, they leave 0.85 of the squared error that residual factors leave."""


class ComposedLoRAOptions(ResidualOptions):
    """Options of Composed LoRA.

    The quantized and the low-rank part of each weight are found in :data:`TURNS` turns if
    ``residual_turns`` does not say otherwise, and in none where ranks are searched: the quantized
    part would follow from the rank.

    Args:
        ranks: Ranks that the search may give a layer, ``rank`` being the greatest. None means that
            all layers have ``rank``. A layer of less has the first rows: those of its layer
            configuration, largest singular value first, then shared ones.
        residual_learning_rate: Peak rate for the factors of layer configurations. None means that
            of the shared ones.
    """

    ranks: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=2)
    residual_learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _rising_to_rank(self) -> ComposedLoRAOptions:
        if self.ranks is not None and (
            list(self.ranks) != sorted(set(self.ranks)) or self.ranks[-1] != self.rank
        ):
            raise ValueError(f"ranks must rise to rank, {self.rank}, not {list(self.ranks)}")
        if self.ranks is not None and self.residual_turns:
            raise ValueError("residual_turns must be 0, or left out, where ranks are searched")
        return self

    @property
    def turns(self) -> int:
        """Turns in which the quantized and the low-rank part of each weight are found."""
        if self.residual_turns is None:
            return 0 if self.ranks else TURNS
        return self.residual_turns

    @property
    def searched_ranks(self) -> tuple[int, ...]:
        """Ranks that the search may give a layer; none where all layers have ``rank``."""
        return self.ranks or ()

    @property
    def entry_rank(self) -> int:
        """Rank of factors that are trained for each layer configuration of each layer by itself."""
        return self.fixed_rank

    @property
    def rows_rate(self) -> float:
        """Peak rate for the factors of layer configurations."""
        if self.residual_learning_rate is None:
            return self.learning_rate
        return self.residual_learning_rate


class ComposedLoRATrainer(AdapterTrainer):
    """Trains factors for each layer configuration of each layer, from their residual factors.

    A configuration's adapter is composed of those of its layers, and of factors that all
    configurations share. So a configuration that no training has seen is made of trained parts.
    """

    Options = ComposedLoRAOptions
    method = "Composed LoRA"

    def __init__(
        self,
        options: ComposedLoRAOptions,
        model: ModelSpec,
        task: Task,
        quantizer: Quantizer,
        seed: int,
    ) -> None:
        rank = options.fixed_rank
        study = StudyModel(
            options,
            model,
            task,
            quantizer,
            seed,
            lambda adapted: prepare_residuals(study, adapted),
            AdapterShape(fixed_rank=rank, rows_rate=options.rows_rate),
            svd_rank=(rank, RESIDUAL_RANK),
            details={
                "residual_rank": rank,
                "residual_norm": options.residual_norm,
                "residual_turns": options.turns,
            },
        )
        super().__init__(study, SharedAdapter(study))
        self._ranks = options.searched_ranks

    # The rank as a knob of the search

    def trainer_knobs(self) -> tuple[Knob, ...]:
        """Return the knob ``rank``, if it is searched."""
        return (Knob(RANK, self._ranks),) if self._ranks else ()

    def takes_values(self, layer: LayerSpec, values: Mapping[str, KnobValue]) -> bool:
        """Return whether a layer can have a rank: tables have none."""
        return not layer.is_table or values[RANK] == 0

    def added_bits(self, shape: tuple[int, int], values: Mapping[str, KnobValue]) -> float:
        """Return the bits per weight that factors take, in 16 bits or in codes."""
        rank, options = values[RANK], self.study.options
        assert isinstance(rank, int)
        return 8 * adapter_bytes(rank, shape, options.adapter_bits) / (shape[0] * shape[1])

    def quantization_error(
        self, layer_configurations: Sequence[LayerConfiguration]
    ) -> npt.NDArray[np.float64]:
        """Return relative squared error (layers × layer configurations), less what a rank mends.

        That is the share of the error, in the norm of the residual factors, that those of the rank
        take away before they are trained.
        """
        if not self._ranks:
            return super().quantization_error(layer_configurations)
        names = self.study.quantizer.choices().names
        plain = [without_trainer_knobs(names, one) for one in layer_configurations]
        distinct = list(dict.fromkeys(plain))
        errors = super().quantization_error(distinct)
        adapted = self.study.adapted
        with clear_memory_errors():
            left = np.array(
                [
                    [adapted.residual.error_left(position, one) for one in distinct]
                    for position in range(len(adapted.adapted_layers))
                ]
            )
        columns = []
        for one, searched in zip(plain, layer_configurations, strict=True):
            column = errors[:, distinct.index(one)].copy()
            rank = min(searched.integer(RANK), self.study.options.entry_rank)
            column[: len(left)] *= left[:, distinct.index(one), rank]
            columns.append(column)
        return np.stack(columns, axis=1)

    def evaluate_full_precision(self, split: Split) -> Evaluation:
        """Evaluate the original weights with the shared factors alone."""
        from qsearch_coalora.training.evaluation import evaluate_full_precision

        return evaluate_full_precision(self.study, split, self.reference(split))
