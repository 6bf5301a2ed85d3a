"""What a round's model scores where nothing is quantized, measured once and saved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import astuple

import numpy as np

from qsearch._arrays import Floats
from qsearch.execution.executor import Failure, Result, attempted, too_slow
from qsearch.execution.time_limit import TimeLimitError, time_limit
from qsearch.monitoring.events import EventKind
from qsearch.plugins.capabilities import SupportsFullPrecision
from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.measurements import read_measurement, write_measurement
from qsearch.study.context import Study

_FIGURES = 5
"""Of an evaluation."""


def full_precision(study: Study, round: int, should_stop: Callable[[], bool]) -> Evaluation | None:
    """Return what the model scores with the round's adapter and no weight quantized.

    It is measured in this process, and counts for no evaluation. What an earlier session measured
    is read, not repeated; a failure too: a study that goes on shall come to the same results.

    Args:
        study: The open study; its trainer has the round's adapter.
        round: Index of the round.
        should_stop: Whether to measure nothing any more; a later session does then.

    Returns:
        None if the trainer cannot tell, it failed, or time is up.
    """
    trainer = study.components.trainer
    if not isinstance(trainer, SupportsFullPrecision):
        return None
    name = f"full_precision-{round}"
    saved = read_measurement(study.directory, name)
    if saved is None:
        if should_stop():
            return None
        saved = _measured(study, round, trainer)
        write_measurement(study.directory, name, saved)
    return None if np.isnan(saved[0]) else Evaluation(*saved.tolist())


def _measured(study: Study, round: int, trainer: SupportsFullPrecision) -> Floats:
    """Return the figures of an evaluation (figures), NaN if it failed; tell of it."""
    start = time.monotonic()
    study.emit(EventKind.MEASURING_FULL_PRECISION, round)
    result = _attempt(study, round, trainer)
    if isinstance(result, Failure):
        study.emit(EventKind.FULL_PRECISION_FAILED, round, reason=result.reason)
    loss = None if isinstance(result, Failure) else result.loss
    study.emit(
        EventKind.MEASURED_FULL_PRECISION, round, seconds=time.monotonic() - start, loss=loss
    )
    figures = [np.nan] * _FIGURES if isinstance(result, Failure) else astuple(result)
    return np.array(figures, dtype=np.float64)


def _attempt(study: Study, round: int, trainer: SupportsFullPrecision) -> Result:
    seconds = study.spec.failures.timeout_seconds

    def evaluate() -> Evaluation:
        return trainer.evaluate_full_precision("validation")

    # No other thread can be cut off; with workers, a study may run in one.
    if seconds is None or threading.current_thread() is not threading.main_thread():
        return attempted(evaluate)
    try:
        with time_limit(seconds):
            return attempted(evaluate)
    except TimeLimitError:
        # It was cut off anywhere, such as while it changed what it evaluates with.
        study.components.trainer.load_state(read_adapter(study.directory, round)[0])
        return too_slow(seconds)
