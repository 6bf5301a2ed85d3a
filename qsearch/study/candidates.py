"""A round's candidates, searched for and attached as trials."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from qsearch._arrays import Integers
from qsearch.experiment.trials import SEARCH
from qsearch.monitoring.events import EventKind
from qsearch.space.sampling import sample_configurations
from qsearch.storage.paths import candidates_path
from qsearch.storage.round_state import CANDIDATES, Candidates
from qsearch.study.running_study import RunningStudy

_RANDOM_DRAWS = 100
"""Draws after which a space counts as used up."""


def find_candidates(
    study: RunningStudy,
    members: Sequence[int],
    first: int,
    count: int,
    should_stop: Callable[[], bool],
) -> list[int]:
    """Return the trials for the round to evaluate, all found before any is evaluated.

    The searcher has the round's scores, and the round's set (``members``) is evaluated. ``first``
    trials exist before the search. Where it is stopped, none are returned.
    """
    round = study.round
    path = candidates_path(study.directory, round)
    if path.is_file() and max(CANDIDATES.read(path).chosen, default=-1) >= len(study.trials):
        path.unlink()  # The database has lost some of them; the search finds them again.
        study.emit(EventKind.SEARCHING_AGAIN, round)
    if not path.is_file():
        if not _search(study, first, count, should_stop):
            return []
        numbers = list(range(len(study.trials)))[first:][:count]
        predicted = _predicted_losses(study, members, numbers)
        found = range(first, len(study.trials))
        texts = {number: study.trials.configuration_text(number) for number in found}
        # From then on the round is never searched again.
        CANDIDATES.write(path, Candidates(tuple(numbers), predicted, texts))
        study.emit(EventKind.SEARCHED, round, candidates=len(numbers))
    return list(CANDIDATES.read(path).chosen[:count])


def fit_searcher(study: RunningStudy, numbers: Collection[int] | None = None) -> bool:
    """Fit the searcher to the round's losses so far, or those of some trials.

    Nothing is fitted without the two losses that a surrogate needs; the result says whether.
    """
    losses = {
        number: evaluation.value_of(study.spec.search.objective)
        for number, evaluation in study.trials.evaluated_in(study.round).items()
        if numbers is None or number in numbers
    }
    if len(losses) < 2:
        return False
    study.searcher.fit(study.trials.indices(list(losses)), np.array(list(losses.values())))
    return True


def _search(study: RunningStudy, first: int, count: int, should_stop: Callable[[], bool]) -> bool:
    """Attach candidates; return whether there was time for all that can be found."""
    trials = study.trials
    is_random = study.spec.search.propose == "random"
    if not fit_searcher(study):
        return True
    while (done := len(trials) - first) < count:
        if should_stop():
            return False
        study.emit(EventKind.SEARCHING, study.round, done=done, total=count)
        known = trials.indices(range(len(trials)))
        if is_random:
            index = random_configuration(study, known)
        else:
            index = study.searcher.propose(known, trials.indices(trials.running()))
        if index is None:
            break
        trials.attach(len(trials), [("random" if is_random else SEARCH, index)])
    return True


def random_configuration(study: RunningStudy, known: Integers) -> Integers | None:
    """Return a new random configuration within the bits, if one was drawn."""
    space, bits = study.components.space, study.size.bits
    taken = {index.tobytes() for index in known}
    generator = np.random.default_rng([study.spec.seed, study.round - 1, len(known)])
    drawn = sample_configurations(space, _RANDOM_DRAWS, bits, generator)
    new = [row.tobytes() not in taken for row in drawn] & space.within(drawn, bits)
    rows: Integers = drawn[new]
    return rows[0] if len(rows) else None


def _predicted_losses(
    study: RunningStudy, members: Sequence[int], numbers: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """Return what is predicted of the losses that candidates will have, from those of the set.

    A candidate may have been evaluated already, where candidates had to be found again; what was
    predicted of it before comes out again.
    """
    new = [number for number in numbers if number not in members]
    if not new or not fit_searcher(study, members):
        return {}
    mean, std = study.searcher.predicted_loss(study.trials.indices(new))
    predicted = zip(new, zip(mean.tolist(), std.tolist(), strict=True), strict=True)
    return {number: values for number, values in predicted if np.isfinite(values).all()}
