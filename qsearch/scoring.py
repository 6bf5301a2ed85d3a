"""A round's proxy scores, measured under its adapter and saved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np

from qsearch.configuration import Configuration
from qsearch.evaluating import evaluations
from qsearch.executors import Failure
from qsearch.probing import probed_scores, probes
from qsearch.proxy import weighted_scores
from qsearch.recording import Study
from qsearch.space import Floats, Integers
from qsearch.store import read_measurement, write_measurement

_PROBED_ABOVE = 1.0
"""Bits above the lower end of the searched interval that probed groups come near to: low enough for
a rise of the loss, not so low that the rise is all of its own kind."""


def round_scores(study: Study, round: int, training_set: Sequence[Configuration]) -> Floats:
    """Return the predicted rise of the loss under the round's adapter (groups × choices).

    What an earlier session measured is read, not repeated.

    Args:
        study: The open study.
        round: Index of the round.
        training_set: The round's set.

    Raises:
        InputError: If the sensitivity of no group could be measured.
    """
    space, error = study.parts.space, study.quantization_error
    if study.spec.search.scores == "gradient":
        return weighted_scores(space, error, _sensitivity(study, round, training_set))
    probe = probes(space, error, study.spec.search.average_bits[0] + _PROBED_ABOVE)
    return probed_scores(space, error, probe, _probe_losses(study, round, probe))


def _sensitivity(study: Study, round: int, training_set: Sequence[Configuration]) -> Floats:
    name = f"sensitivity-{round}"
    saved = read_measurement(study.directory, name)
    if saved is not None:
        return saved
    start = time.monotonic()
    study.tell("measuring sensitivity", round)
    measured = study.parts.trainer.sensitivity(training_set, round)
    write_measurement(study.directory, name, measured)
    study.tell("measured sensitivity", round, seconds=time.monotonic() - start)
    return measured


def _probe_losses(study: Study, round: int, probe: Integers) -> Floats:
    """Return the probes' losses (probes), NaN where an evaluation failed, each saved at once."""
    name = f"probes-{round}"
    saved = read_measurement(study.directory, name)
    losses = np.full(len(probe), np.nan) if saved is None else saved
    waiting = np.flatnonzero(np.isnan(losses))
    if not len(waiting):
        return losses
    start = time.monotonic()
    study.tell("measuring sensitivity", round, total=len(waiting))
    configurations = [study.parts.space.decode(probe[number]) for number in waiting]
    with closing(evaluations(study, round, configurations)) as results:
        for position, result in results:
            if not isinstance(result, Failure):
                losses[waiting[position]] = result.loss
                write_measurement(study.directory, name, losses)
    study.tell("measured sensitivity", round, seconds=time.monotonic() - start)
    return losses
