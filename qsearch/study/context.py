"""An open study: its components, its experiment and its observers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ax.api.client import Client

from qsearch._arrays import Floats
from qsearch.execution.executor import Executor
from qsearch.experiment.node import QsearchNode
from qsearch.monitoring.events import Event, EventKind, Observer
from qsearch.plugins.components import StudyComponents
from qsearch.space.configuration import Configuration
from qsearch.spec.study_spec import StudySpec
from qsearch.surrogate.error_correlation import error_correlation


@dataclass(frozen=True)
class Study:
    """A study that is open for running.

    Args:
        directory: Its directory.
        components: Quantizer, task, trainer and space.
        client: Ax client of its experiment.
        node: The generation node that the client generates with.
        quantization_error: Relative squared error of each layer (layers × choices).
        edges: Edges of the segments, in average bits (segments + 1).
        observer: Told of every event.
        executor: Evaluates configurations.
    """

    directory: Path
    components: StudyComponents
    client: Client
    node: QsearchNode
    quantization_error: Floats
    edges: Floats
    observer: Observer
    executor: Executor

    @cached_property
    def correlation(self) -> Floats:
        """Correlation of the errors of two choices (choices × choices), measured at first use."""
        return error_correlation(self.components.quantizer)

    @property
    def spec(self) -> StudySpec:
        """The study's YAML as data."""
        return self.components.spec

    @property
    def metric(self) -> str:
        """Name of the task metric."""
        return self.components.task.metric.name

    def configuration(self, number: int) -> Configuration:
        """Return the configuration of a trial."""
        space = self.components.space
        trial = self.client._experiment.trials[number]
        return space.decode(space.from_parameters(trial.arm.parameters))

    def emit(self, kind: EventKind, round: int, **fields: object) -> None:
        """Send an event to the observer."""
        self.observer(Event(kind, round, fields))
