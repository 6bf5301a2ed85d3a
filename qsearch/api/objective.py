"""What a study of an objective has instead of plugins: a trainer that does not train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

import numpy as np

from qsearch._arrays import Floats
from qsearch.api.model_space import Space
from qsearch.errors import InputError
from qsearch.plugins.components import PYTHON_ONLY
from qsearch.plugins.digests import STUDY_SPLITS, Inputs
from qsearch.plugins.evaluation import Evaluation, Metric, TrainReport
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.protocols import Progress, Requirements, Split, TrainerState
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import OBJECTIVE, PluginSpec
from qsearch.storage.objective_file import read_objective


@dataclass
class ObjectiveTask:
    """The metrics of an objective, and the number of its examples once a result has said it."""

    directory: Path
    section: PluginSpec
    name: str = OBJECTIVE

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that the study was created with."""
        own = self.section.options.get("metrics", {})
        return tuple(Metric(name, better) for name, better in own.items())

    def examples(self, split: Split) -> int | None:
        """Return how many predictions each loss is a mean over."""
        return read_objective(self.directory).examples


@dataclass(frozen=True)
class ObjectiveTrainer:
    """Knows the model's weights; whoever asks for configurations evaluates them."""

    space: Space
    export_formats: ClassVar[tuple[str, ...]] = ()

    def layers(self) -> Sequence[LayerSpec]:
        """Return the space's layers."""
        return self.space.layers

    def requirements(self) -> Requirements:
        """Return the size of the model in memory."""
        tensors = self.space.state.values()
        return Requirements(
            sum(tensor.numel() for tensor in tensors), sum(tensor.nbytes for tensor in tensors)
        )

    def footprint(self) -> Footprint:
        """Return the space's own."""
        return self.space.footprint

    def input_digests(self, splits: Sequence[Split] = STUDY_SPLITS) -> Inputs:
        """Return the digest of the model: results of other weights are not comparable."""
        return Inputs(model={"weights": self.space.digest()})

    def quantization_error(self, layer_configurations: Sequence[LayerConfiguration]) -> Floats:
        """Return the space's own; the configurations are all of its quantizer's."""
        return self.space.quantization_error

    def sensitivity(self, configurations: Sequence[Configuration], round: int) -> Floats:
        """Return each layer's number of weights: errors of all weights count the same."""
        return np.array([layer.parameters for layer in self.space.layers], dtype=np.float64)

    def state(self) -> TrainerState:
        """Return nothing: nothing is trained."""
        return TrainerState({}, {})

    def load_state(self, state: TrainerState) -> None:
        """Load nothing."""

    def train(
        self,
        configurations: Sequence[Configuration],
        round: int,
        progress: Progress | None = None,
    ) -> TrainReport:
        """Train nothing."""
        return TrainReport(0, 0.0, ())

    def evaluate(
        self, configurations: Sequence[Configuration], split: Split
    ) -> Sequence[Evaluation]:
        """Refuse: the objective is not known here."""
        _refuse()

    def export(self, configuration: Configuration, directory: Path, format: str) -> None:
        """Refuse: nothing here knows how the model is saved."""
        _refuse()


def _refuse() -> NoReturn:
    raise InputError(PYTHON_ONLY)
