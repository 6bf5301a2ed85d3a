"""The study that has a tool's model, text and integers, for methods that this repository runs."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from qsearch_coalora.methods.ptq import PTQTrainer

from benchmarks.paper_text import environment
from benchmarks.peer_tools.inputs import Allocation
from qsearch._arrays import Floats, Integers
from qsearch.plugins.components import build_components
from qsearch.plugins.evaluation import Evaluation
from qsearch.plugins.protocols import Split
from qsearch.search.layer_scores import weighted_scores
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.spec.study_spec import StudySpec, load_spec


class PeerStudy:
    """A plan's model in memory, and its configurations as bits by module path."""

    def __init__(self, plan: Path, changes: tuple[str, ...] = ()) -> None:
        self.spec: StudySpec = load_spec(plan, changes, environment())
        components = build_components(self.spec)
        assert isinstance(components.trainer, PTQTrainer)
        self.trainer: PTQTrainer = components.trainer
        self.space: ConfigurationSpace = components.space

    @cached_property
    def paths(self) -> dict[str, str]:
        """Module paths of the layers, by the layers' names."""
        job = self.trainer.export_job(self.space.decode(self.alike(0)))
        return {layer.name: path for layer, path in zip(job.layers, job.paths, strict=True)}

    def alike(self, choice: int) -> Integers:
        """Return the configuration with one choice for all layers (groups)."""
        return np.full(len(self.space.groups), choice, dtype=np.int64)

    def allocation(self, configuration: Configuration) -> Allocation:
        """Return a configuration as bits by module path."""
        return {path: int(configuration[name]["bits"]) for name, path in self.paths.items()}

    def configuration(self, allocation: Allocation) -> Configuration:
        """Return the configuration of bits by module path."""
        every = self.space.choices.layer_configurations
        by_bits: dict[int, LayerConfiguration] = {int(one["bits"]): one for one in every}
        return Configuration({name: by_bits[allocation[path]] for name, path in self.paths.items()})

    def evaluate(self, configuration: Configuration, split: Split = "validation") -> Evaluation:
        """Evaluate a configuration; the calibration text is the validation split."""
        (evaluation,) = self.loaded.evaluate([configuration], split)
        return evaluation

    def scores(self) -> Floats:
        """Return the predicted rise of the loss of the model as it is (groups × choices)."""
        error = self.loaded.quantization_error(self.space.choices.layer_configurations)
        return weighted_scores(self.space, error, self.loaded.sensitivity((), 1))

    @cached_property
    def loaded(self) -> PTQTrainer:
        """The trainer, with the model as it is."""
        self.trainer.load_state(self.trainer.state())
        return self.trainer
