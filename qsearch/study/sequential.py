"""One trial at a time: ask for a configuration, report its result, ask again.

For losses that no training changes, so that a study has one round and evaluates nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from qsearch.execution.executor import Result
from qsearch.experiment.trials import SEARCH
from qsearch.monitoring.events import EventKind
from qsearch.plugins.evaluation import TrainReport
from qsearch.storage.paths import candidates_path
from qsearch.storage.round_state import CANDIDATES, Candidates, write_round
from qsearch.storage.study_record import StudyRecord
from qsearch.study.candidates import fit_searcher, random_configuration
from qsearch.study.filtering import finished_round
from qsearch.study.proxy_scores import round_scores
from qsearch.study.results import PeriodicRecord, save_record
from qsearch.study.running_study import RunningStudy
from qsearch.study.trial_evaluation import save_result


class SequentialSearch:
    """Asks for and reports trials of an open study, whose one round is never finished for good."""

    def __init__(self, study: RunningStudy) -> None:
        self._study = study
        self._record = PeriodicRecord(study)
        self._scored: tuple[int | None] | None = None
        self._seconds = 0.0

    @property
    def done(self) -> int:
        """How many trials have a result, failures included."""
        trials = self._study.trials
        return len(trials) - len(trials.running())

    def ask(self, pending: Collection[int] = ()) -> int | None:
        """Return the next trial to evaluate, other than pending ones; None if there is none left.

        First come the trials of the first set, and those that an earlier session left without a
        result; then what the search proposes, given the losses so far.
        """
        waiting = [number for number in self._study.trials.running() if number not in pending]
        return waiting[0] if waiting else self._propose()

    def report(self, number: int, result: Result) -> None:
        """Save the result of a trial."""
        # This one included.
        save_result(self._study, number, result, self.done + 1, len(self._study.trials))
        self._record.save_if_due()

    def save(self) -> StudyRecord:
        """Save the results so far as those of a finished round, and return them."""
        study = self._study
        if not study.trials.evaluated_in(study.round):
            return save_record(study)
        if study.examples is not None:
            self._use_scores()
        state = finished_round(study, (), TrainReport(0, 0.0, ()), None, self._seconds)
        write_round(study.directory, state)
        study.rounds.append(state)
        try:
            return save_record(study)
        finally:
            study.rounds.clear()

    def _propose(self) -> int | None:
        study, trials = self._study, self._study.trials
        start = time.monotonic()
        study.emit(EventKind.SEARCHING, done=self.done, total=len(trials) + 1)
        known, method = trials.indices(range(len(trials))), SEARCH
        self._use_scores()
        is_fitted = fit_searcher(study)
        if is_fitted:
            index = study.searcher.propose(known, trials.indices(trials.running()))
        else:  # Everything is still pending.
            index, method = random_configuration(study, known), "random"
        self._seconds += time.monotonic() - start
        if index is None:
            return None
        number = len(trials)
        trials.attach(number, [(method, index)])
        self._save_candidate(number, is_fitted)
        return number

    def _save_candidate(self, number: int, is_fitted: bool) -> None:
        """Save what is known of a candidate, which an archive needs while it has no result."""
        study, trials = self._study, self._study.trials
        path = candidates_path(study.directory, study.round)
        before = CANDIDATES.read(path) if path.is_file() else Candidates(())
        predicted = dict(before.predicted)
        if is_fitted:
            mean, std = study.searcher.predicted_loss(trials.indices([number]))
            predicted[number] = (float(mean[0]), float(std[0]))
        texts = {waiting: trials.configuration_text(waiting) for waiting in trials.running()}
        CANDIDATES.write(path, Candidates((*before.chosen, number), predicted, texts))

    def _use_scores(self) -> None:
        study = self._study
        if self._scored != (study.examples,):  # The first result says how many examples there are.
            scores = round_scores(study, study.round, (), is_unchanged=False)
            study.searcher.use_scores(scores, study.correlation, study.examples)
            self._scored = (study.examples,)
