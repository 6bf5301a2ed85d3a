"""What a study's evaluations are compared with, made before them."""

from __future__ import annotations

import time

from qsearch.errors import EvaluationError
from qsearch.monitoring.events import EventKind
from qsearch.plugins.references import SupportsReferenceFile
from qsearch.storage.example_scores import write_example_scores
from qsearch.storage.paths import reference_examples_path, reference_path
from qsearch.study.running_study import RunningStudy


def prepare_reference(study: RunningStudy) -> None:
    """Have the trainer make what evaluations under its state are compared with.

    Where that fails, each evaluation tries it again, and fails with its reason.
    """
    trainer, directory = study.components.trainer, study.directory
    if not isinstance(trainer, SupportsReferenceFile):
        return
    start = time.monotonic()
    study.emit(EventKind.MEASURING_REFERENCE)
    try:
        scores = trainer.prepare_reference(directory)
    except EvaluationError:
        return
    if scores is None:
        return
    # That of a round is the round's full precision, whose examples are kept as such.
    is_of_study = reference_path(directory, "validation").is_file()
    path = reference_examples_path(directory)
    if is_of_study and not path.is_file():
        write_example_scores(path, scores.examples)
    study.emit(
        EventKind.MEASURED_REFERENCE,
        seconds=time.monotonic() - start,
        examples=len(scores.examples.losses),
        compared=scores.compared,
    )
