"""A study's Ax experiment as plain data, apart from any database.

Ax's own JSON is not used: it names Python classes to build, and expressions that Ax hands to
SymPy, which evaluates them as code. Here is nothing but figures and names, each checked, so that a
foreign archive can be opened.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

import pandas as pd
from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig
from ax.core.arm import Arm
from ax.core.experiment import Experiment
from ax.core.generator_run import GeneratorRun
from ax.core.trial import Trial
from ax.core.trial_status import TrialStatus
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from qsearch.experiment.node import NODE
from qsearch.experiment.parameters import AVERAGE_BITS, LOSS, SECONDS, stored_precision
from qsearch.experiment.trials import FAILED_REASON, FAILED_ROUND, INITIAL, METHOD, SEARCH

_STATUSES = {
    "running": TrialStatus.RUNNING,
    "completed": TrialStatus.COMPLETED,
    "failed": TrialStatus.FAILED,
    "abandoned": TrialStatus.ABANDONED,
}

Name = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=0, le=10**6)]
Value = int | str
Figure = Annotated[float, Field(allow_inf_nan=False)]


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ArchivedParameter(_Plain):
    """One ordered choice of the search space."""

    name: Name
    values: Annotated[tuple[Value, ...], Field(strict=False, min_length=1, max_length=10_000)]


class ArchivedFigure(_Plain):
    """What a trial's evaluation in a round gave for a metric."""

    round: Count
    metric: Name
    mean: Figure
    sem: Figure | None


class ArchivedTrial(_Plain):
    """One trial.

    Args:
        arm: Name of its arm.
        values: Its values, in the order of the parameters.
        status: Its status.
        method: Where it came from, such as ``search``.
        initial: Whether it is of the first set.
        failed_round: The round that it failed in, if it failed.
        reason: Why it failed or was abandoned.
        created: When it was made; the others likewise.
        figures: What was measured, of all rounds.
    """

    arm: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    values: Annotated[tuple[Value, ...], Field(strict=False)]
    status: Literal["running", "completed", "failed", "abandoned"]
    method: Name
    initial: bool
    failed_round: Count | None = None
    reason: str | None = None
    created: Annotated[datetime | None, Field(strict=False)]
    started: Annotated[datetime | None, Field(strict=False)] = None
    completed: Annotated[datetime | None, Field(strict=False)] = None
    figures: Annotated[tuple[ArchivedFigure, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _failed_as_a_whole(self) -> Self:
        if (self.status == "failed") != (self.failed_round is not None):
            raise ValueError("a failed trial, and no other, tells the round that it failed in")
        return self


class ArchivedExperiment(_Plain):
    """One experiment.

    Args:
        name: Its name.
        description: What ties it to its study's directory.
        metric: Name of the task metric; None if the study stopped before it was set.
        created: When it was made.
        parameters: The search space.
        trials: All of its trials, by number.
    """

    name: Name
    description: Name
    metric: Name | None
    created: Annotated[datetime, Field(strict=False)]
    parameters: Annotated[tuple[ArchivedParameter, ...], Field(strict=False, min_length=1)]
    trials: Annotated[tuple[ArchivedTrial, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _within_the_space(self) -> Self:
        known = [set(parameter.values) for parameter in self.parameters]
        metrics = {LOSS, AVERAGE_BITS, SECONDS, self.metric}
        if self.metric in (LOSS, AVERAGE_BITS, SECONDS):
            raise ValueError(f"the metric is called {self.metric!r}, as another figure is")
        if len({parameter.name for parameter in self.parameters}) < len(self.parameters):
            raise ValueError("parameters share a name")
        if len({trial.arm for trial in self.trials}) < len(self.trials):
            raise ValueError("trials share an arm's name")
        for number, trial in enumerate(self.trials):
            pairs = zip(trial.values, known, strict=False)
            if len(trial.values) != len(known) or not all(value in own for value, own in pairs):
                raise ValueError(f"trial {number} is outside of the search space")
            by_round: dict[int, set[str]] = {}
            for figure in trial.figures:
                by_round.setdefault(figure.round, set()).add(figure.metric)
            for round, measured in by_round.items():
                if not measured <= metrics:
                    raise ValueError(f"trial {number} has figures of unknown metrics")
                if measured != metrics:
                    raise ValueError(f"trial {number} lacks figures of round {round}")
        return self


def archived(experiment: Experiment) -> ArchivedExperiment:
    """Return an Ax experiment of a study as plain data.

    Args:
        experiment: The experiment, with all of its trials and data.

    Raises:
        ValueError: If it holds what no study does.
    """
    data = experiment.lookup_data().full_df
    data = data.assign(mean=stored_precision(data["mean"]), sem=stored_precision(data["sem"]))
    figures = dict(list(data.groupby("trial_index"))) if "step" in data else {}
    names = list(experiment.search_space.parameters)
    tracked = [name for name in experiment.metrics if name not in (LOSS, AVERAGE_BITS, SECONDS)]
    return ArchivedExperiment(
        name=experiment.name,
        description=experiment.description,
        metric=tracked[0] if tracked else None,
        created=experiment.time_created.astimezone(UTC),
        parameters=tuple(
            ArchivedParameter(name=name, values=tuple(parameter.values))
            for name, parameter in experiment.search_space.parameters.items()
        ),
        trials=tuple(
            _archived_trial(experiment.trials[number], names, figures.get(number))
            for number in range(len(experiment.trials))
        ),
    )


def _archived_trial(trial: Trial, names: list[str], data: pd.DataFrame | None) -> ArchivedTrial:
    statuses = {status: name for name, status in _STATUSES.items()}
    if trial.status not in statuses:
        raise ValueError(f"trial {trial.index} is {trial.status.name.lower()}")
    rows = [] if data is None else data.to_dict("records")
    failed = trial.run_metadata.get(FAILED_ROUND) if trial.status == TrialStatus.FAILED else None
    return ArchivedTrial(
        arm=trial.arm.name,
        values=tuple(trial.arm.parameters[name] for name in names),
        status=statuses[trial.status],  # type: ignore[arg-type]  # One of the literal's.
        method=trial.run_metadata[METHOD],
        initial=trial.run_metadata[INITIAL],
        failed_round=failed,
        reason=trial.run_metadata.get(FAILED_REASON) if failed is not None else None,
        created=_utc(trial.time_created),
        started=_utc(trial.time_run_started),
        completed=_utc(trial.time_completed),
        figures=tuple(
            ArchivedFigure(
                round=int(row["step"]),
                metric=row["metric_name"],
                mean=float(row["mean"]),
                sem=None if math.isnan(row["sem"]) else float(row["sem"]),
            )
            for row in rows
        ),
    )


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(UTC)


def to_ax(kept: ArchivedExperiment) -> Experiment:
    """Return the Ax experiment that was archived, new and not in any database.

    Args:
        kept: The experiment as plain data.

    Raises:
        Exception: Whatever Ax raises where it refuses a part.
    """
    client = Client()
    client.configure_experiment(
        name=kept.name,
        description=kept.description,
        parameters=[
            ChoiceParameterConfig(
                name=parameter.name,
                values=list(parameter.values),
                parameter_type="int" if isinstance(parameter.values[0], int) else "str",
                is_ordered=True,
            )
            for parameter in kept.parameters
        ],
    )
    if kept.metric is not None:
        client.configure_optimization(objective=f"-{LOSS}, -{AVERAGE_BITS}")
        client.configure_tracking_metrics([kept.metric, SECONDS])
    experiment = client._experiment
    experiment._time_created = _local(kept.created)
    names = [parameter.name for parameter in kept.parameters]
    for trial in kept.trials:
        _add_trial(experiment, trial, dict(zip(names, trial.values, strict=True)))
    return experiment


def _add_trial(experiment: Experiment, kept: ArchivedTrial, values: dict[str, Value]) -> None:
    arms, node = [Arm(parameters=values, name=kept.arm)], NODE if kept.method == SEARCH else None
    trial = experiment.new_trial(GeneratorRun(arms, generation_node_name=node))
    trial.update_run_metadata({METHOD: kept.method, INITIAL: kept.initial})
    by_round: dict[int, dict[str, tuple[float, float | None]]] = {}
    for figure in kept.figures:
        by_round.setdefault(figure.round, {})[figure.metric] = (figure.mean, figure.sem)
    if by_round:
        trial.update_trial_data(raw_data=sorted(by_round.items()))
    # Ax has no way to make a trial as it was.
    trial._status = _STATUSES[kept.status]
    trial._time_created = _local(kept.created)
    trial._time_run_started = _local(kept.started)
    trial._time_completed = _local(kept.completed)
    if kept.failed_round is not None:
        reason = kept.reason or ""
        trial.update_run_metadata({FAILED_ROUND: kept.failed_round, FAILED_REASON: reason})
        trial._status_reason = reason[:100]


def _local(time: datetime | None) -> datetime | None:
    """Return a time as Ax has it: local, without its zone."""
    return None if time is None else time.astimezone().replace(tzinfo=None)
