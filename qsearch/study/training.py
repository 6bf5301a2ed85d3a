"""Training of one round: here, or configuration by configuration on workers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qsearch.execution.executor import ExecutorEvent
from qsearch.monitoring.events import EventKind
from qsearch.plugins.capabilities import (
    SupportsCheckpoints,
    SupportsSeparateTraining,
    TrainingCheckpoint,
)
from qsearch.plugins.evaluation import TrainReport
from qsearch.space.configuration import Configuration
from qsearch.storage.checkpoints import (
    delete_checkpoint,
    read_adapter,
    read_checkpoint,
    write_adapter,
)
from qsearch.storage.paths import adapter_path
from qsearch.study.running_study import RunningStudy


def train_round(study: RunningStudy, round: int, training_set: Sequence[int]) -> TrainReport:
    """Train on the trials of a set, or load what an earlier session has trained.

    Afterwards trainer and executor have the round's adapter as it was saved.
    """
    trainer = study.components.trainer
    if not adapter_path(study.directory, round).is_file():
        if round > 1:
            _load_before(study, round - 1)
        configurations = [study.trials.configuration(number) for number in training_set]
        trained = _train(study, round, configurations)
        write_adapter(study.directory, round, trainer.state(), trained)
        study.emit(
            EventKind.TRAINED,
            round,
            **{
                # A trainer's own details do not hide what every event has.
                **{k: v for k, v in trained.details.items() if k not in ("kind", "round")},
                "steps": trained.steps,
                "seconds": trained.seconds,
                "loss": float(np.mean(trained.losses[-20:])) if trained.losses else None,
            },
        )
    delete_checkpoint(study.directory, round)
    # Loading what was saved makes a resumed round equal an uninterrupted one.
    state, report = read_adapter(study.directory, round)
    trainer.load_state(state)
    study.executor.use(state)
    return report


def _load_before(study: RunningStudy, round: int) -> None:
    """Load the adapter of the round before; train it again if its file is missing."""
    if adapter_path(study.directory, round).is_file():
        study.components.trainer.load_state(read_adapter(study.directory, round)[0])
    else:
        train_round(study, round, study.training_set(round)[0])


def restore_adapter(study: RunningStudy) -> None:
    """Train the last finished round's adapter again if its file is missing.

    It is needed to export; earlier ones are not. What was evaluated under it stays valid, since
    training it again gives the same adapter.
    """
    last = len(study.rounds)
    if last and not adapter_path(study.directory, last).is_file():
        study.executor.start()
        train_round(study, last, study.training_set(last)[0])


def _train(study: RunningStudy, round: int, configurations: Sequence[Configuration]) -> TrainReport:
    trainer = study.components.trainer

    def progress(step: int, total: int, loss: float) -> None:
        study.emit(EventKind.TRAINING, round, step=step, total=total, loss=loss)

    if not isinstance(trainer, SupportsCheckpoints):
        return trainer.train(configurations, round, progress)
    checkpoint = read_checkpoint(study.directory, round)
    if study.executor.workers > 1 and isinstance(trainer, SupportsSeparateTraining):
        _train_separately(study, round, trainer, configurations, checkpoint)
    return trainer.train_resumably(configurations, round, progress, checkpoint)


def _train_separately(
    study: RunningStudy,
    round: int,
    trainer: SupportsSeparateTraining,
    configurations: Sequence[Configuration],
    checkpoint: TrainingCheckpoint,
) -> None:
    """Have workers train what is not trained yet; the trainer then finds it done."""
    waiting = trainer.untrained(configurations, checkpoint)
    done = 0
    study.emit(EventKind.TRAINING_CONFIGURATIONS, round, done=done, total=len(waiting))
    for outcome in study.executor.train(waiting):
        if isinstance(outcome, ExecutorEvent):
            if outcome.kind:
                study.emit(outcome.kind, round, **outcome.fields)
            continue
        trainer.adopt(outcome[1], configurations, checkpoint)
        done += 1
        study.emit(EventKind.TRAINING_CONFIGURATIONS, round, done=done, total=len(waiting))
