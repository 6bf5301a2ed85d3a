"""Configurations of a round compared over the examples that all of them were evaluated on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qsearch.claims.joint_interval import joint_quantile
from qsearch.claims.paired_difference import PairedDifference, paired_scores
from qsearch.errors import DamagedFileError, InputError
from qsearch.plugins.evaluation import ExampleScores
from qsearch.storage.example_scores import FULL_PRECISION, Of, read_example_scores
from qsearch.storage.study_record import StudyRecord


@dataclass(frozen=True)
class JointDifference:
    """A trial's difference from a model, as one of several that were compared with it.

    Args:
        alone: With an interval that holds if this one is looked at alone.
        jointly: With an interval that is one of several which hold at once.
    """

    trial: int
    alone: PairedDifference
    jointly: PairedDifference


class Comparison:
    """Paired differences within the last finished round of a study; None where they are unknown.

    Files are read when they are asked for. They are unknown where the trainer does not give what
    each example scored.
    """

    def __init__(self, directory: Path, record: StudyRecord) -> None:
        self._directory = directory
        self._round = record.rounds[-1].round if record.rounds else 1
        self._scores: dict[Of, ExampleScores | None] = {}

    def with_full_precision(self, trial: int, metric: str = "loss") -> PairedDifference | None:
        """Return a trial's value less that of the same adapter with no weight quantized."""
        return self._difference(trial, FULL_PRECISION, metric)

    def with_trial(self, trial: int, other: int, metric: str = "loss") -> PairedDifference | None:
        """Return a trial's value less that of another trial."""
        return self._difference(trial, other, metric)

    def jointly(
        self, trials: Iterable[int], other: Of = FULL_PRECISION, metric: str = "loss"
    ) -> list[JointDifference]:
        """Return the differences of trials from a model that are known, in the order of trials."""
        known = {
            trial: difference
            for trial in trials
            if (difference := self._difference(trial, other, metric)) is not None
        }
        scores = [scores for trial in known if (scores := self._read(trial)) is not None]
        compared = self._read(other)
        if compared is None:
            return []
        quantile = joint_quantile(scores, compared, metric)
        return [
            JointDifference(trial, difference, difference.widened(quantile))
            for trial, difference in known.items()
        ]

    def _difference(self, trial: int, other: Of, metric: str) -> PairedDifference | None:
        own, compared = self._read(trial), self._read(other)
        if own is None or compared is None or len(own.losses) < 2:
            return None
        if metric != "loss" and not (metric in own.metrics and metric in compared.metrics):
            return None
        return paired_scores(own, compared, metric)

    def _read(self, of: Of) -> ExampleScores | None:
        if of not in self._scores:
            try:
                self._scores[of] = read_example_scores(self._directory, self._round, of)
            except DamagedFileError:
                raise
            except InputError:
                self._scores[of] = None
        return self._scores[of]
