"""A small study with stop rules, and how it ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qsearch.monitoring.events import Event, Observer
from qsearch.storage.study_record import StudyRecord
from qsearch.study.run import run_spec
from tests.engine.fake_study import FAULTS, SMALL, events_of, study_spec

CHANGES = SMALL | {"search__rounds": 3, "trainer__faults": FAULTS[:1]}
FIRST_ROUND = 7  # Evaluations of the small study's first round.


def run(directory: Path, observer: Observer | None = None, **stop: Any) -> StudyRecord:
    """Run the small study with stop rules."""
    return run_spec(study_spec(**CHANGES, search__stop=stop), directory, observer=observer)


def reason(directory: Path) -> str:
    return str(events_of(directory, "finished")[-1]["reason"])


def die_at(count: int, kinds: tuple[str, ...]) -> Observer:
    """Die without clean-up at an event."""
    seen = 0

    def observe(event: Event) -> None:
        nonlocal seen
        seen += event.kind in kinds
        if seen == count:
            os._exit(9)

    return observe
