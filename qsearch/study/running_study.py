"""An open study: its components, its trials and its finished rounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qsearch._arrays import Floats
from qsearch.execution.executor import Executor
from qsearch.experiment.trials import Trials
from qsearch.monitoring.events import Emit
from qsearch.plugins.capabilities import SupportsChanceLoss, SupportsExampleCount
from qsearch.plugins.components import StudyComponents
from qsearch.provenance.session import Session
from qsearch.search.pareto import segment_edges
from qsearch.search.searcher import Searcher
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.paths import STUDY_FILE
from qsearch.storage.round_state import RoundState
from qsearch.storage.study_record import UNIFORM, read_facts
from qsearch.study.file_bytes import SearchSize
from qsearch.surrogate.error_correlation import error_correlation


@dataclass(frozen=True)
class RunningStudy:
    """A study that is open for running.

    Args:
        rounds: The finished ones, in order; :func:`run_round` appends to them.
        sessions: The sessions so far, this one included.
        quantization_error: Relative squared error of each layer (layers × choices).
    """

    directory: Path
    components: StudyComponents
    trials: Trials
    searcher: Searcher
    rounds: list[RoundState]
    sessions: tuple[Session, ...]
    quantization_error: Floats
    size: SearchSize
    executor: Executor
    emit: Emit

    @property
    def spec(self) -> StudySpec:
        """The study's YAML as data."""
        return self.components.spec

    @property
    def round(self) -> int:
        """The first round that is not finished."""
        return len(self.rounds) + 1

    @cached_property
    def correlation(self) -> Floats:
        """Correlation of the errors of two choices (choices × choices), measured at first use."""
        return error_correlation(self.components.quantizer, self.components.space.choices)

    @property
    def edges(self) -> Floats:
        """Edges of the segments, in average bits (segments + 1)."""
        return segment_edges(self.size.bits, self.spec.search.segments)

    @property
    def examples(self) -> int | None:
        """Number of validation examples; None if sampling noise is not modelled."""
        task = self.components.task
        if self.spec.search.target == "examples" or not isinstance(task, SupportsExampleCount):
            return None
        return task.examples("validation")

    @property
    def baselines(self) -> tuple[int, ...]:
        """Trials of the first set that quantize all layers alike: each round evaluates them."""
        trials = self.trials
        return tuple(n for n in trials.initial() if trials.method(n) == UNIFORM)

    @cached_property
    def chance_loss(self) -> float | None:
        """What guessing loses on the validation examples, nats; None if the task does not say.

        Once it is kept, it is read: a finished study loads neither model nor data.
        """
        if (self.directory / STUDY_FILE).is_file():
            kept = read_facts(self.directory).chance_loss
            if kept is not None:
                return kept
        task = self.components.task
        return task.chance_loss("validation") if isinstance(task, SupportsChanceLoss) else None

    def training_set(self, round: int) -> tuple[tuple[int, ...], int]:
        """Return a round's training set, and how many trials exist before its search."""
        if round > 1:
            before = self.rounds[round - 2]
            return before.next_set, before.trials
        initial = self.trials.initial()
        return initial, len(initial)
