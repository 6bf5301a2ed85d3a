"""What limits a study's results, and is known before any long work."""

from __future__ import annotations

from qsearch.plugins.components import StudyComponents
from qsearch.plugins.data_warnings import SupportsDataWarnings
from qsearch.plugins.source_precision import (
    SourcePrecision,
    SupportsSourcePrecision,
    SupportsTerms,
)


def source_precision(components: StudyComponents) -> SourcePrecision | None:
    """Return how precise the files of the study's model are, if its trainer knows."""
    trainer = components.trainer
    return trainer.source_precision() if isinstance(trainer, SupportsSourcePrecision) else None


def terms(components: StudyComponents) -> tuple[str, ...]:
    """Return under which terms the study's model is, if its user must be told."""
    trainer = components.trainer
    text = trainer.terms() if isinstance(trainer, SupportsTerms) else None
    return (text,) if text else ()


def study_warnings(components: StudyComponents) -> tuple[str, ...]:
    """Return sentences for the user; the data that are on this machine are read for it.

    Raises:
        InputError: If no result on the study's data would mean anything.
    """
    task, precision = components.task, source_precision(components)
    of_data = task.data_warnings() if isinstance(task, SupportsDataWarnings) else ()
    of_model = (precision.note,) if precision is not None and precision.note else ()
    return (*of_data, *of_model)
