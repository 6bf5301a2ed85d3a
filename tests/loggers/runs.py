"""An interrupted and resumed run of the fake study, played to loggers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qsearch.monitoring.events import Event
from qsearch.monitoring.loggers import loggers
from qsearch.storage.paths import LOG
from qsearch.storage.study_record import read_study
from qsearch.study.run import run_spec
from tests.engine.fake_study import study_spec

SPEC = study_spec(
    name='<b>"fake" & co</b>',
    trainer__blocks=1,
    search__initial=4,
    search__candidates=1,
    search__propose="random",
    trainer__faults=[{"kind": "error", "layer": "block.0.query", "bits": 8}],
)
"""Two rounds with some failures, of a study with an awkward name."""


@dataclass
class Session:
    """The study's log before a session, and the session's events."""

    log: str
    events: list[Event]

    def play(
        self,
        logger: str,
        directory: Path,
        observer: Callable[[Event], object] = lambda event: None,
    ) -> None:
        """Have a logger see the session, as in a run, and require that it never fails."""
        (directory / "state").mkdir(parents=True, exist_ok=True)
        (directory / LOG).write_text(self.log)
        warnings: list[str] = []
        with loggers([logger], directory, SPEC.name, warnings.append) as (observe,):
            for event in self.events:
                observe(event)
                observer(event)
        assert warnings == []


@dataclass
class Recording:
    """The sessions of a study that was interrupted in round 2, and what its files say."""

    first: Session
    second: Session
    values: dict[str, list[float]]
    """What should have been logged, in order of steps."""
    failures: int

    def assert_complete(self, logged: dict[str, Sequence[tuple[int, float]]]) -> None:
        """Assert that each value is logged once, as (step, value), with rising steps."""
        for name, values in self.values.items():
            steps = [step for step, _ in logged[name]]
            assert steps == sorted(set(steps)), name
            assert [value for _, value in logged[name]] == pytest.approx(values, rel=1e-6), name
        assert logged["failures"][-1][1] == self.failures > 0
        # Evaluations and failures share their steps.
        last = max(logged["failures"][-1][0], logged["evaluation/loss"][-1][0])
        assert last == len(logged["evaluation/loss"]) + self.failures


def record(directory: Path) -> Recording:
    """Run the study in two sessions."""
    sessions: list[Session] = []
    for stop_at in (("training", 2, 2), None):
        log = directory / LOG
        session = Session(log.read_text() if log.exists() else "", [])
        sessions.append(session)

        def observe(event: Event, session: Session = session, stop_at: Any = stop_at) -> None:
            session.events.append(event)
            if (event.kind, event.round, event.fields.get("step")) == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) if stop_at else nullcontext():
            run_spec(SPEC, directory, observer=observe)
    study = read_study(directory)
    rows = study.trials[study.trials["status"] == "completed"]
    # Results come in the order of trials within a round.
    rows = rows.sort_values(["round", "trial"])
    values = {
        "training/loss": [loss for entry in study.rounds for loss in entry.train_losses],
        "evaluation/loss": rows["loss"].tolist(),
        "evaluation/average_bits": rows["average_bits"].tolist(),
        "evaluation/trial": rows["trial"].astype(float).tolist(),
        "round/hypervolume": [entry.hypervolume for entry in study.rounds],
    }
    return Recording(*sessions, values, int((study.trials["status"] == "failed").sum()))
