"""What a round's model scores where nothing is quantized, measured once and saved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from qsearch.execution.executor import Failure, attempted
from qsearch.monitoring.events import EventKind
from qsearch.plugins.capabilities import SupportsFullPrecision
from qsearch.plugins.evaluation import Evaluation
from qsearch.storage.checkpoints import read_adapter
from qsearch.storage.example_scores import FULL_PRECISION as FULL_PRECISION_NAME
from qsearch.storage.example_scores import read_example_scores, write_example_scores
from qsearch.storage.paths import examples_path, full_precision_path
from qsearch.storage.round_state import FULL_PRECISION, FullPrecision
from qsearch.study.running_study import RunningStudy


def full_precision(
    study: RunningStudy, round: int, is_unchanged: bool, should_stop: Callable[[], bool]
) -> Evaluation | None:
    """Return what the model scores with the round's adapter and no weight quantized.

    It is measured in this process, and does not count as an evaluation. What an earlier session
    measured is read, not repeated; a failure too: a resumed study must come to the same results.
    With an unchanged adapter, the round before says it.
    None if the trainer cannot measure it, it failed, or it is left to a later session.
    """
    trainer = study.components.trainer
    if not isinstance(trainer, SupportsFullPrecision):
        return None
    path = full_precision_path(study.directory, round)
    if is_unchanged and not path.is_file():
        _take_over(study.directory, round)
    if not path.is_file():
        if should_stop():
            return None
        evaluation = _measure(study, round, trainer)
        if evaluation is not None:
            own = examples_path(study.directory, round, FULL_PRECISION_NAME)
            write_example_scores(own, evaluation.examples)
            evaluation = evaluation.without_examples()
        FULL_PRECISION.write(path, FullPrecision(evaluation))
    return FULL_PRECISION.read(path).evaluation


def _take_over(directory: Path, round: int) -> None:
    """Write what the round before measured as that of this one, unless that failed."""
    before = full_precision_path(directory, round - 1)
    if not before.is_file():
        return
    known = FULL_PRECISION.read(before)
    if known.evaluation is None:
        return
    if examples_path(directory, round - 1, FULL_PRECISION_NAME).is_file():
        scores = read_example_scores(directory, round - 1, FULL_PRECISION_NAME)
        write_example_scores(examples_path(directory, round, FULL_PRECISION_NAME), scores)
    FULL_PRECISION.write(full_precision_path(directory, round), known)


def _measure(study: RunningStudy, round: int, trainer: SupportsFullPrecision) -> Evaluation | None:
    start = time.monotonic()
    study.emit(EventKind.MEASURING_FULL_PRECISION, round)
    # No other thread can be interrupted; with workers, a study may run in one.
    is_main = threading.current_thread() is threading.main_thread()
    result = attempted(
        lambda: trainer.evaluate_full_precision("validation"),
        study.spec.failures.timeout_seconds if is_main else None,
        lambda: study.components.trainer.load_state(read_adapter(study.directory, round)[0]),
    )
    evaluation = result if isinstance(result, Evaluation) else None
    if isinstance(result, Failure):
        study.emit(EventKind.FULL_PRECISION_FAILED, round, reason=result.reason)
    study.emit(
        EventKind.MEASURED_FULL_PRECISION,
        round,
        seconds=time.monotonic() - start,
        loss=evaluation and evaluation.loss,
    )
    return evaluation
