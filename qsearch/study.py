"""The loop: train on the set, evaluate it, search for candidates, filter by segments, again."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from ax.api.client import Client
from ax.core.trial_status import TrialStatus
from ax.exceptions.generation_strategy import GenerationStrategyCompleted
from ax.storage.sqa_store.db import NAME_OR_TYPE_FIELD_LENGTH

from qsearch.assembly import Assembly, assemble
from qsearch.configuration import Configuration
from qsearch.errors import InputError, QsearchError
from qsearch.evaluation import TrainReport
from qsearch.events import Event, Observer, event_log
from qsearch.executors import Failure, evaluate_serially
from qsearch.generation import QsearchNode
from qsearch.initial import initial_configurations
from qsearch.lock import study_lock
from qsearch.pareto import normalised_hypervolume, segment_edges, segmented_front
from qsearch.records import RoundRecord, StudyRecord, write_atomically, write_json, write_study
from qsearch.search import reference_point
from qsearch.space import Floats
from qsearch.spec import StudySpec, differences, dump_spec, load_spec
from qsearch.store import (
    LOG,
    STUDY_YAML,
    RoundState,
    adapter_path,
    candidates_path,
    open_client,
    prepare_directory,
    read_adapter,
    read_quantization_error,
    read_rounds,
    storage_errors,
    write_adapter,
    write_quantization_error,
    write_round,
)
from qsearch.trials import (
    FAILED_REASON,
    FAILED_ROUND,
    ax_data,
    evaluated_in,
    method_of,
    trial_table,
)

_VERSIONS = ("qsearch", "ax-platform", "botorch", "gpytorch", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Study:
    """A study that is open for running.

    Args:
        directory: Its directory.
        parts: Quantizer, task, trainer and space.
        client: Ax client of its experiment.
        edges: Edges of the segments, in average bits (segments + 1).
        observer: Told of every event.
    """

    directory: Path
    parts: Assembly
    client: Client
    edges: Floats
    observer: Observer

    @property
    def spec(self) -> StudySpec:
        """The study's YAML as data."""
        return self.parts.spec

    @property
    def metric(self) -> str:
        """Name of the task metric."""
        return self.parts.task.metric.name

    def tell(self, kind: str, round: int, **fields: object) -> None:
        """Send an event to the observer."""
        self.observer(Event(kind, round, fields))


def run_study(
    spec: StudySpec,
    directory: Path,
    storage_url: str | None = None,
    observer: Observer | None = None,
    where: str = "study",
) -> StudyRecord:
    """Run a study, or go on with it where it stopped.

    What a stopped study had finished is kept: a training, an evaluation or a round that was
    saved is not repeated, and the rest comes out as if it had never stopped.

    Args:
        spec: The study.
        directory: Where its files are kept.
        storage_url: SQLAlchemy URL of the database; None keeps it in the directory.
        observer: Told of every event, for progress.
        where: The file that the study comes from, for error messages.

    Returns:
        The results.

    Raises:
        InputError: If the study, its data or its directory cannot be used, or the directory
            holds another study.
        QsearchError: If it cannot go on, as when every evaluation of a round failed.
    """
    prepare_directory(directory)
    with study_lock(directory), storage_errors(directory):
        parts = assemble(spec, where)
        _claim(parts.spec, directory)
        log = event_log(directory / LOG)

        def tell(event: Event) -> None:
            log(event)
            if observer:
                observer(event)

        study = _open(parts, directory, storage_url, tell)
        study.tell("started", len(read_rounds(directory)), rounds=spec.search.rounds)
        try:
            for round in range(len(read_rounds(directory)), spec.search.rounds):
                _run_round(study, round)
        except BaseException as error:
            # What was evaluated shall be readable; a second error must not hide the first.
            with contextlib.suppress(Exception):
                _save_record(study)
                kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
                study.tell(kind, len(read_rounds(directory)), reason=str(error))
            raise
        study.tell("finished", spec.search.rounds - 1)
        return _save_record(study)


def _open(parts: Assembly, directory: Path, storage_url: str | None, observer: Observer) -> Study:
    """Open the study's experiment with its initial trials, new or as it was left."""
    search, seed = parts.spec.search, parts.spec.seed
    error = _quantization_error(parts, directory, observer)
    client, node = open_client(
        directory,
        storage_url,
        parts.spec.name,
        parts.space,
        QsearchNode(parts.space, search.average_bits, seed),
        parts.task.metric.name,
    )
    node.use_quantization_error(error)
    edges = segment_edges(search.average_bits, search.segments)
    study = Study(directory, parts, client, edges, observer)
    _attach_initial(study, error)
    _save_record(study)
    return study


def _claim(spec: StudySpec, directory: Path) -> None:
    """Write the resolved study, or require that the directory's is the same."""
    path = directory / STUDY_YAML
    if path.is_file():
        changed = differences(load_spec(path), spec)
        if changed:
            raise InputError(
                f"{path} differs from this study: {'; '.join(changed)};"
                " run the same study to resume, or give another --out"
            )
        return
    text = dump_spec(spec)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _quantization_error(parts: Assembly, directory: Path, observer: Observer) -> Floats:
    saved = read_quantization_error(directory)
    if saved is not None:
        return saved
    start = time.monotonic()
    observer(Event("measuring quantization error", 0))
    error = parts.trainer.quantization_error(parts.space.choices.layer_configurations)
    write_quantization_error(directory, error)
    observer(Event("measured quantization error", 0, {"seconds": time.monotonic() - start}))
    return error


def _attach_initial(study: Study, error: Floats) -> None:
    experiment = study.client._experiment
    search = study.spec.search
    wanted = initial_configurations(
        study.parts.space,
        error,
        search.initial,
        search.average_bits,
        np.random.default_rng([study.spec.seed, 0]),
    )
    for position in range(len(experiment.trials), len(wanted)):
        method, index = wanted[position]
        study.client.attach_trial(
            dict(study.parts.space.parameters(index)), arm_name=f"{method}-{position}"
        )


def _run_round(study: Study, round: int) -> None:
    training_set, first = _training_set(study, round)
    study.tell("round started", round, training_set=len(training_set))
    report = _train(study, round, training_set)
    seconds = _evaluate(study, round, training_set, "evaluating the set")
    _save_record(study)
    search_start = time.monotonic()
    candidates = _search(study, round, first)
    search_seconds = time.monotonic() - search_start
    seconds += _evaluate(study, round, candidates, "evaluating candidates")
    points, members = _points(study, round)
    if not members:
        raise QsearchError(
            f"round {round}: every evaluation failed; the reasons are in {study.directory / LOG}"
        )
    keep = segmented_front(points, study.edges)
    next_set = tuple(n for n, kept in zip(members, keep, strict=True) if kept)
    reference = _reference(study, round, points)
    record = RoundRecord(
        round=round,
        training_set=training_set,
        hypervolume=normalised_hypervolume(
            points, reference, (0.0, study.parts.space.average_bits_range[0])
        ),
        train_seconds=report.seconds,
        evaluate_seconds=seconds,
        search_seconds=search_seconds,
        train_losses=report.losses,
    )
    write_round(study.directory, RoundState(record, next_set, len(study.client._experiment.trials)))
    study.tell("round finished", round, hypervolume=record.hypervolume, next_set=len(next_set))
    _save_record(study)


def _train(study: Study, round: int, training_set: Sequence[int]) -> TrainReport:
    trainer = study.parts.trainer
    if not adapter_path(study.directory, round).is_file():
        if round > 0:
            trainer.load_state(read_adapter(study.directory, round - 1)[0])
        configurations = [_configuration(study, number) for number in training_set]
        trained = trainer.train(
            configurations,
            round,
            lambda step, total, loss: study.tell(
                "training", round, step=step, total=total, loss=loss
            ),
        )
        write_adapter(study.directory, round, trainer.state(), trained)
        study.tell(
            "trained",
            round,
            steps=trained.steps,
            seconds=trained.seconds,
            loss=float(np.mean(trained.losses[-20:])) if trained.losses else None,
            **trained.details,
        )
    # Loading what was saved makes a resumed round equal an uninterrupted one.
    state, report = read_adapter(study.directory, round)
    trainer.load_state(state)
    return report


def _configuration(study: Study, number: int) -> Configuration:
    space = study.parts.space
    return space.decode(
        space.from_parameters(study.client._experiment.trials[number].arm.parameters)
    )


def _evaluate(study: Study, round: int, numbers: Sequence[int], phase: str) -> float:
    """Evaluate trials that have no result in this round; return the round's seconds for them."""
    experiment = study.client._experiment
    done = evaluated_in(experiment, round)
    waiting = []
    for number in numbers:
        trial = experiment.trials[number]
        if number in done and trial.status == TrialStatus.RUNNING:
            study.client.complete_trial(number)  # Killed between data and completion.
        elif number not in done and trial.status != TrialStatus.FAILED:
            waiting.append(number)
    configurations = [_configuration(study, number) for number in waiting]
    space = study.parts.space
    start = time.monotonic()
    study.tell(phase, round, total=len(waiting))
    results = evaluate_serially(study.parts.trainer, configurations, "validation")
    for position, (number, result) in enumerate(zip(waiting, results, strict=True), start=1):
        trial = experiment.trials[number]
        if isinstance(result, Failure):
            trial.update_run_metadata({FAILED_ROUND: round, FAILED_REASON: result.reason})
            # Ax refuses to fail a trial that completed in an earlier round unless told so.
            trial.mark_failed(reason=result.reason[:NAME_OR_TYPE_FIELD_LENGTH], unsafe=True)
            study.client._save_or_update_trial_in_db_if_possible(experiment=experiment, trial=trial)
            study.tell("failed", round, trial=number, reason=result.reason)
            continue
        bits = float(space.average_bits(space.from_parameters(trial.arm.parameters)))
        data = ax_data(result, bits, study.metric)
        study.client.attach_data(number, raw_data=data, progression=round)
        if trial.status == TrialStatus.RUNNING:
            study.client.complete_trial(number)
        study.tell(
            "evaluated",
            round,
            trial=number,
            average_bits=bits,
            loss=result.loss,
            metric=result.metric,
            seconds=result.seconds,
            done=position,
            total=len(waiting),
        )
    return time.monotonic() - start


def _search(study: Study, round: int, first: int) -> list[int]:
    """Generate the round's candidates as Ax trials, all before any is evaluated."""
    experiment = study.client._experiment
    path = candidates_path(study.directory, round)
    wanted = study.spec.search.candidates
    if not path.is_file():
        enough = len(evaluated_in(experiment, round)) >= 2
        while enough and len(experiment.trials) - first < wanted:
            study.tell("searching", round, done=len(experiment.trials) - first, total=wanted)
            try:
                # One at a time: Ax saves several at once only with a warning and lost ids.
                if not study.client.get_next_trials(max_trials=1):
                    break
            except GenerationStrategyCompleted:
                break
        generated = sorted(number for number in experiment.trials if number >= first)
        write_json(path, generated)
        study.tell("searched", round, candidates=len(generated))
    return [number for number in sorted(experiment.trials) if number >= first]


def _points(study: Study, round: int) -> tuple[Floats, list[int]]:
    """Return (loss, average bits) of the round's completed trials, and their numbers."""
    table = _table(study)
    rows = table[(table["round"] == round) & (table["status"] == "completed")]
    points = rows[["loss", "average_bits"]].to_numpy(dtype=np.float64)
    return points, [int(number) for number in rows["trial"]]


def _reference(study: Study, round: int, points: Floats) -> tuple[float, float]:
    """Return the reference point: fixed by round 0, so that rounds compare."""
    if round > 0:
        table = _table(study)
        rows = table[(table["round"] == 0) & (table["status"] == "completed")]
        points = rows[["loss", "average_bits"]].to_numpy(dtype=np.float64)
    return reference_point(points[:, 0], study.spec.search.average_bits)


def _training_set(study: Study, round: int) -> tuple[tuple[int, ...], int]:
    """Return the round's training set, and how many trials exist before its search."""
    if round > 0:
        before = read_rounds(study.directory)[round - 1]
        return before.next_set, before.trials
    trials = study.client._experiment.trials
    initial = tuple(number for number in sorted(trials) if method_of(trials[number]) != "search")
    return initial, len(initial)


def _table(study: Study) -> pd.DataFrame:
    sets = [state.record.training_set for state in read_rounds(study.directory)]
    if adapter_path(study.directory, len(sets)).is_file():
        sets.append(_training_set(study, len(sets))[0])
    return trial_table(study.client._experiment, study.parts.space, study.metric, sets, study.edges)


def _save_record(study: Study) -> StudyRecord:
    spec, parts = study.spec, study.parts
    rounds = read_rounds(study.directory)
    table = _table(study)
    first = table[(table["round"] == 0) & (table["status"] == "completed")]
    record = StudyRecord(
        name=spec.name,
        model=spec.model.name,
        task=spec.task.name,
        quantizer=spec.quantizer.name,
        trainer=spec.trainer.name,
        metric=parts.task.metric,
        layers=parts.space.layers,
        choices=parts.space.choices,
        average_bits_range=parts.space.average_bits_range,
        segment_edges=tuple(study.edges.tolist()),
        reference_point=(
            reference_point(first["loss"].to_numpy(), spec.search.average_bits)
            if len(first)
            else None
        ),
        rounds=tuple(state.record for state in rounds),
        trials=table,
        versions=_versions(),
    )
    write_study(study.directory, record)
    return record


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
