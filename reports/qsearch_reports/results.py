"""All that a report shows of a study, read from its directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qsearch.claims.study_claims import NO_CLAIMS, Claims, study_claims
from qsearch.errors import InputError
from qsearch.monitoring.events import read_events
from qsearch.monitoring.status import finish_reason
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.speed import SpeedTable
from qsearch.spec.yaml_text import read_yaml
from qsearch.storage.bounded_reading import MAX_STATE
from qsearch.storage.checksums import read_checked
from qsearch.storage.measurements import read_footprint, read_layer_scores, read_speed
from qsearch.storage.paths import LOG, STUDY_YAML
from qsearch.storage.study_record import StudyRecord, read_study


@dataclass(frozen=True)
class StudyResults:
    """What reports know of a study; all but the record may be missing.

    Args:
        directory: Where it lives, as its user would type it in a command.
        layer_scores: Predicted rise of the loss, nats, when a layer alone gets a choice
            (layers × choices), under the adapter of the last finished round, or of round 1 while
            that runs; see :mod:`qsearch.search.layer_scores`.
        claims: What the last finished round supports.
        speed: What its configurations are predicted to generate a second by.
        settings: Its ``study.yaml`` as resolved, as plain values.
    """

    record: StudyRecord
    directory: str
    footprint: Footprint | None = None
    events: Sequence[Mapping[str, Any]] = ()
    layer_scores: npt.NDArray[np.float64] | None = None
    settings: Mapping[str, Any] | None = None
    claims: Claims = NO_CLAIMS
    speed: SpeedTable | None = None


def read_results(directory: Path) -> StudyResults:
    """Read what a study's directory holds.

    Raises:
        InputError: If the directory holds no study, or its files cannot be read.
    """
    record = read_study(directory)
    # Without a finished round, what a report shows is of the first.
    last = record.rounds[-1].round if record.rounds else 1
    shape = len(record.layers), record.choices.size
    return StudyResults(
        record=record,
        directory=str(directory),
        footprint=read_footprint(directory),
        events=_events(directory / LOG),
        layer_scores=read_layer_scores(directory, last, shape),
        settings=_settings(directory / STUDY_YAML),
        claims=study_claims(directory, record),
        speed=read_speed(directory),
    )


def is_unfinished(results: StudyResults) -> bool:
    """Return whether a study's log says that it continues; without a log nothing does."""
    return bool(results.events) and not finish_reason(results.events[-1])


def _events(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        return read_events(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _settings(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    read_checked(path, MAX_STATE)
    settings = read_yaml(path)
    if not isinstance(settings, dict):
        raise InputError(f"{path}: a study is a mapping of sections, not {type(settings).__name__}")
    return settings
