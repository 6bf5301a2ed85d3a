"""Runs of the fake study with a logger, which may be interrupted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from qsearch.monitoring.events import Event, all_of
from qsearch.monitoring.loggers import loggers
from qsearch.storage.study_record import read_study
from qsearch.study.run import run_study
from tests.engine.support import study_spec

SPEC = study_spec(
    name='<b>"fake" & co</b>',
    trainer__blocks=1,
    search__initial=4,
    search__candidates=1,
    search__propose="random",
    trainer__faults=[{"kind": "error", "layer": "block.0.query", "bits": 8}],
)
"""Two rounds with some failures, of a study with an awkward name."""


def run(
    logger: str | None,
    directory: Path,
    stop_at: tuple[str, int, Any] | None = None,
    observer: Callable[[Event], object] = lambda event: None,
) -> None:
    """Run the study with a logger, as the command line does, and require that it never fails.

    Interrupted at an event (kind, round, step or trial) if asked, once the logger has seen it.
    """
    warnings: list[str] = []
    names = [] if logger is None else [logger]

    def interrupt(event: Event) -> None:
        observer(event)
        at = event.fields.get("step", event.fields.get("trial"))
        if (event.kind, event.round, at) == stop_at:
            raise KeyboardInterrupt

    stops = nullcontext() if stop_at is None else pytest.raises(KeyboardInterrupt)
    with stops, loggers(names, directory, SPEC.name, warnings.append) as observers:
        run_study(SPEC, directory, observer=all_of([*observers, interrupt]))
    assert warnings == []


def expected(directory: Path) -> dict[str, list[float]]:
    """What the study's own files say should have been logged, in order of steps."""
    record = read_study(directory)
    rows = record.trials[record.trials["status"] == "completed"]
    # Results come in the order of trials within a round.
    rows = rows.sort_values(["round", "trial"])
    return {
        "training/loss": [loss for entry in record.rounds for loss in entry.train_losses],
        "evaluation/loss": rows["loss"].tolist(),
        "evaluation/average_bits": rows["average_bits"].tolist(),
        "evaluation/trial": rows["trial"].astype(float).tolist(),
        "round/hypervolume": [entry.hypervolume for entry in record.rounds],
    }


def failures(directory: Path) -> int:
    """How many evaluations failed."""
    return int((read_study(directory).trials["status"] == "failed").sum())


def assert_complete(directory: Path, logged: dict[str, list[tuple[int, float]]]) -> None:
    """Assert that each value of the study is logged once, as (step, value) with rising steps."""
    for name, values in expected(directory).items():
        steps = [step for step, _ in logged[name]]
        assert steps == sorted(set(steps)), name
        assert [value for _, value in logged[name]] == pytest.approx(values, rel=1e-6), name
    assert logged["failures"][-1][1] == failures(directory) > 0
    # Evaluations and failures share their steps.
    last = max(logged["failures"][-1][0], logged["evaluation/loss"][-1][0])
    assert last == len(logged["evaluation/loss"]) + failures(directory)
