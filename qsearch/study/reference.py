"""What a study's evaluations are compared with, made before them."""

from __future__ import annotations

import time

from qsearch._text import reason_of
from qsearch.errors import EvaluationError
from qsearch.monitoring.events import EventKind
from qsearch.plugins.references import SupportsReferenceFile
from qsearch.storage.example_scores import write_example_scores
from qsearch.storage.paths import reference_examples_path, reference_path
from qsearch.study.running_study import RunningStudy


def prepare_reference(study: RunningStudy) -> None:
    """Have the trainer make what evaluations under its state are compared with.

    Where that fails, each evaluation tries it again, and fails with its reason. Whatever comes of
    it, an event says that it has ended.
    """
    trainer, directory = study.components.trainer, study.directory
    if not isinstance(trainer, SupportsReferenceFile):
        return
    start = time.monotonic()
    study.emit(EventKind.MEASURING_REFERENCE)
    try:
        scores = trainer.prepare_reference(directory)
    except Exception as error:
        study.emit(EventKind.REFERENCE_FAILED, reason=reason_of(error))
        if isinstance(error, EvaluationError):
            return
        raise
    # That of a round is the round's full precision, whose examples are kept as such.
    is_of_study = reference_path(directory, "validation").is_file()
    path = reference_examples_path(directory)
    if scores is not None and is_of_study and not path.is_file():
        write_example_scores(path, scores.examples)
    study.emit(
        EventKind.MEASURED_REFERENCE,
        seconds=time.monotonic() - start,
        examples=len(scores.examples.losses) if scores else 0,
        compared=scores.compared if scores else 0,
    )
