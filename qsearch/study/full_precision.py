"""What a round's model scores where nothing is quantized, measured once and saved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qsearch.execution.executor import Failure, Result, attempted, too_slow
from qsearch.execution.time_limit import TimeLimitError, time_limit
from qsearch.monitoring.events import EventKind
from qsearch.plugins.capabilities import SupportsFullPrecision
from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.paths import full_precision_path
from qsearch.storage.round_state import FullPrecision, read_full_precision, write_full_precision
from qsearch.study.context import Study


def full_precision(study: Study, round: int, should_stop: Callable[[], bool]) -> Evaluation | None:
    """Return what the model scores with the round's adapter and no weight quantized.

    It is measured in this process, and does not count as an evaluation. What an earlier session
    measured is read, not repeated; a failure too: a resumed study must come to the same results.

    Args:
        study: The open study; its trainer has the round's adapter.
        round: Index of the round.
        should_stop: Whether to measure nothing any more; a later session does then.

    Returns:
        None if the trainer cannot measure it, it failed, or time is up.
    """
    trainer = study.components.trainer
    if not isinstance(trainer, SupportsFullPrecision):
        return None
    path = full_precision_path(study.directory, round)
    if not path.is_file():
        if should_stop():
            return None
        write_full_precision(study.directory, round, _measure(study, round, trainer))
    return read_full_precision(path).evaluation


def _measure(study: Study, round: int, trainer: SupportsFullPrecision) -> FullPrecision:
    start = time.monotonic()
    study.emit(EventKind.MEASURING_FULL_PRECISION, round)
    result = _attempt(study, round, trainer)
    if isinstance(result, Failure):
        study.emit(EventKind.FULL_PRECISION_FAILED, round, reason=result.reason)
    evaluation = None if isinstance(result, Failure) else result
    study.emit(
        EventKind.MEASURED_FULL_PRECISION,
        round,
        seconds=time.monotonic() - start,
        loss=evaluation and evaluation.loss,
    )
    return FullPrecision(evaluation)


def _attempt(study: Study, round: int, trainer: SupportsFullPrecision) -> Result:
    seconds = study.spec.failures.timeout_seconds

    def evaluate() -> Evaluation:
        return trainer.evaluate_full_precision("validation")

    # No other thread can be interrupted; with workers, a study may run in one.
    if seconds is None or threading.current_thread() is not threading.main_thread():
        return attempted(evaluate)
    try:
        with time_limit(seconds):
            return attempted(evaluate)
    except TimeLimitError:
        # It was interrupted anywhere, such as while it changed what it evaluates with.
        study.components.trainer.load_state(read_adapter(study.directory, round)[0])
        return too_slow(seconds)
