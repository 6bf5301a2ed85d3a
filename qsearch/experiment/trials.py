"""A study's trials, in memory as the database has them: all that a study does with Ax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ax.core.arm import Arm
from ax.core.data import Data, DataRow
from ax.core.experiment import Experiment
from ax.core.generator_run import GeneratorRun
from ax.core.trial import Trial
from ax.core.trial_status import TrialStatus
from ax.storage.sqa_store.db import NAME_OR_TYPE_FIELD_LENGTH
from ax.storage.sqa_store.load import load_experiment
from ax.storage.sqa_store.save import save_or_update_data_for_trials, save_or_update_trials

from qsearch._arrays import Integers
from qsearch.experiment.database import Database
from qsearch.experiment.node import NODE, registry_bundle
from qsearch.experiment.parameters import (
    AVERAGE_BITS,
    LOSS,
    SECONDS,
    from_parameters,
    stored_precision,
    to_parameters,
)
from qsearch.plugins.evaluation import Evaluation, MetricValue
from qsearch.space.configuration import Configuration
from qsearch.space.configuration_space import ConfigurationSpace

SEARCH = "search"
"""The method of a trial that the search has proposed."""

METHOD = "qsearch_method"
INITIAL = "qsearch_initial"
FAILED_ROUND = "qsearch_failed_round"
FAILED_REASON = "qsearch_failed_reason"
"""What Ax keeps with a trial (``run_metadata``) for qsearch."""

Results = dict[int, dict[int, Evaluation]]
"""Evaluations by round and trial, as precise as Ax stores them."""


class Trials:
    """The trials of one experiment.

    A trial is running until its first result, then completed; a failure makes it failed, whether
    or not an earlier round completed it. :meth:`retry` takes failures back.

    Each change is saved in one transaction before the method returns. Where the database goes
    away meanwhile, the experiment is loaded again, and the change made and saved again. Damaged
    rows of the experiment raise exceptions of any kind when this is made, not later.
    """

    def __init__(
        self,
        experiment: Experiment,
        database: Database,
        space: ConfigurationSpace,
        metrics: Sequence[str],
    ) -> None:
        self._experiment, self._database = experiment, database
        self._space, self.metrics = space, tuple(metrics)
        self._registry = registry_bundle()
        self._results = results_of(experiment, metrics)
        self._indices: dict[int, Integers] = {}
        self._texts: dict[int, str] = {}
        self._is_ahead = False
        missing = {n for rows in self._results.values() for n in rows}.difference(range(len(self)))
        if missing or set(experiment.trials) != set(range(len(self))):
            raise ValueError("trials are missing")
        # Damage of what is read at need must not come up in the middle of a study.
        self.indices(range(len(self)))
        self.initial(), self.failures(), [self.method(number) for number in range(len(self))]

    def __len__(self) -> int:
        return len(self._experiment.trials)

    def index(self, number: int) -> Integers:
        """Return the choice indices (groups) of a trial."""
        if number not in self._indices:
            parameters = self._trial(number).arm.parameters
            self._indices[number] = from_parameters(self._space, parameters)
        return self._indices[number]

    def indices(self, numbers: Sequence[int]) -> Integers:
        """Return the choice indices (trials × groups) of trials."""
        rows = [self.index(number) for number in numbers]
        return np.array(rows, dtype=np.int64).reshape(-1, len(self._space.groups))

    def average_bits(self, number: int) -> float:
        """Return the average bits of a trial."""
        return float(self._space.average_bits(self.index(number)))

    def configuration(self, number: int) -> Configuration:
        """Return the configuration of a trial."""
        return self._space.decode(self.index(number))

    def configuration_text(self, number: int) -> str:
        """Return the configuration of a trial as JSON."""
        if number not in self._texts:
            self._texts[number] = self.configuration(number).to_json()
        return self._texts[number]

    def method(self, number: int) -> str:
        """Return where a trial came from, such as ``uniform`` or ``search``."""
        return str(self._trial(number).run_metadata[METHOD])

    def initial(self) -> tuple[int, ...]:
        """Return the trials of the first set."""
        return tuple(n for n in range(len(self)) if self._trial(n).run_metadata[INITIAL])

    def running(self) -> list[int]:
        """Return the trials without a result in any round."""
        return [n for n in range(len(self)) if self._trial(n).status == TrialStatus.RUNNING]

    def rounds(self) -> list[int]:
        """Return the rounds that have evaluated anything."""
        return sorted(self._results)

    def evaluated_in(self, round: int) -> Mapping[int, Evaluation]:
        """Return what a round has evaluated, in order of trials."""
        return dict(sorted(self._results.get(round, {}).items()))

    def failures(self) -> dict[int, tuple[int, str]]:
        """Return round and reason of each failed trial."""
        return {
            number: (int(trial.run_metadata[FAILED_ROUND]), str(trial.run_metadata[FAILED_REASON]))
            for number, trial in sorted(self._experiment.trials.items())
            if trial.status == TrialStatus.FAILED
        }

    def failed_in(self, round: int) -> dict[int, str]:
        """Return why trials failed in a round."""
        return {number: why for number, (when, why) in self.failures().items() if when == round}

    def count_before(self, round: int) -> int:
        """Return how many evaluations the rounds before one have made, failures included."""
        evaluated = sum(len(rows) for earlier, rows in self._results.items() if earlier < round)
        return evaluated + sum(failed_round < round for failed_round, _ in self.failures().values())

    def without_result(self, numbers: Sequence[int], round: int) -> list[int]:
        """Return those trials that a round has not evaluated, nor any round failed."""
        done = {*self._results.get(round, {}), *self.failures()}
        return [number for number in numbers if number not in done]

    def attach(
        self, first: int, rows: Sequence[tuple[str, Integers]], is_initial: bool = False
    ) -> None:
        """Attach configurations as running trials, numbered from ``first``; those there stay."""

        def save() -> None:
            for number, (method, index) in enumerate(rows, start=first):
                if number >= len(self):
                    facts = {METHOD: method, INITIAL: is_initial}
                    trial = self._new_trial(f"{method}-{number}", index, facts)
                    # One at a time: Ax saves several at once only with a warning and lost ids.
                    self._save([trial])

        if first + len(rows) > len(self):
            self._write(save)

    def save_result(self, number: int, round: int, evaluation: Evaluation) -> None:
        """Save what a trial scored in a round."""
        data = {
            LOSS: (evaluation.loss, evaluation.standard_error),
            AVERAGE_BITS: (self.average_bits(number), 0.0),
            SECONDS: (evaluation.seconds, 0.0),
        }
        for name, metric in evaluation.metrics.items():
            data[name] = (metric.value, metric.standard_error)

        def save() -> None:
            trial = self._trial(number)
            rows = [
                DataRow(number, trial.arm.name, name, name, mean, error, float(round))
                for name, (mean, error) in data.items()
            ]
            self._experiment.attach_data(Data(data_rows=rows))
            if trial.status == TrialStatus.RUNNING:
                trial.mark_completed()
                self._save([trial])
            else:  # All else of it is as it was saved.
                save_or_update_data_for_trials(
                    self._experiment, [trial], self._registry.encoder, self._registry.decoder
                )

        self._write(save)
        self._results.setdefault(round, {})[number] = _stored(evaluation)

    def save_failure(self, number: int, round: int, reason: str) -> None:
        """Save that a trial failed in a round; it is never evaluated again, unless retried."""

        def save() -> None:
            trial = self._trial(number)
            trial.update_run_metadata({FAILED_ROUND: round, FAILED_REASON: reason})
            # Ax refuses to fail a trial that completed in an earlier round unless told so.
            trial.mark_failed(reason=reason[:NAME_OR_TYPE_FIELD_LENGTH], unsafe=True)
            self._save([trial])

        self._write(save)

    def retry(self, round: int) -> list[int]:
        """Take the failures of a round back; return its trials that had failed."""
        numbers = list(self.failed_in(round))
        earlier = {n for before, rows in self._results.items() if before < round for n in rows}

        def save() -> None:
            trials = [self._trial(number) for number in numbers]
            for trial in trials:
                trial.update_run_metadata({FAILED_ROUND: None, FAILED_REASON: None})
                if trial.index in earlier:
                    trial.mark_completed(unsafe=True)
                else:
                    trial.mark_running(no_runner_required=True, unsafe=True)
            self._save(trials)

        self._write(save)
        return numbers

    def _trial(self, number: int) -> Trial:
        return self._experiment.trials[number]

    def _new_trial(self, name: str, index: Integers, facts: dict[str, object]) -> Trial:
        arm = Arm(parameters=to_parameters(self._space, index), name=name)
        node = NODE if facts[METHOD] == SEARCH else None
        trial = self._experiment.new_trial(GeneratorRun([arm], generation_node_name=node))
        trial.update_run_metadata(facts)
        return trial.mark_running(no_runner_required=True)

    def _save(self, trials: list[Trial]) -> None:
        save_or_update_trials(self._experiment, trials, config=self._registry.sqa_config)

    def _write(self, save: Callable[[], None]) -> None:
        def save_again() -> None:
            if self._is_ahead:
                self._reload()
            save()

        try:
            self._database.write(save_again, self._reload)
        except BaseException:  # What is in memory may not have been saved.
            self._is_ahead = True
            raise
        self._is_ahead = False

    def _reload(self) -> None:
        self._experiment = load_experiment(self._experiment.name, config=self._registry.sqa_config)


def _stored(evaluation: Evaluation) -> Evaluation:
    """Return an evaluation as precise as Ax stores it."""

    def rounded(value: float) -> float:
        return float(stored_precision(value))

    return Evaluation(
        rounded(evaluation.loss),
        rounded(evaluation.standard_error),
        {
            name: MetricValue(rounded(metric.value), rounded(metric.standard_error))
            for name, metric in evaluation.metrics.items()
        },
        rounded(evaluation.seconds),
    )


def results_of(experiment: Experiment, metrics: Sequence[str]) -> Results:
    """Return the evaluations that an experiment holds, with metrics by name where it has them."""
    results: Results = {}
    frame = experiment.lookup_data().full_df
    if "step" not in frame:  # Ax leaves the column out while there is no data.
        return results
    frame = frame.dropna(subset=["step"])
    frame = frame.assign(mean=stored_precision(frame["mean"]), sem=stored_precision(frame["sem"]))
    for (number, round), rows in frame.groupby(["trial_index", "step"]):
        values = rows.set_index("metric_name")
        mean, error = values["mean"], values["sem"]
        results.setdefault(int(round), {})[int(number)] = Evaluation(
            loss=float(mean[LOSS]),
            standard_error=float(error[LOSS]),
            metrics={
                name: MetricValue(float(mean[name]), float(error[name]))
                for name in metrics
                if name in mean.index
            },
            seconds=float(mean[SECONDS]),
        )
    return results
