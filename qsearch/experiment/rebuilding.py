"""A study's Ax experiment made again from the files of its directory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from ax.api.client import Client
from ax.core.arm import Arm
from ax.core.experiment import Experiment
from ax.core.generator_run import GeneratorRun
from ax.core.trial import Trial

from qsearch._arrays import Integers
from qsearch.errors import InputError
from qsearch.experiment.parameters import AVERAGE_BITS, LOSS, ax_parameters
from qsearch.experiment.trial_table import FAILED_REASON, FAILED_ROUND, ax_data
from qsearch.plugins.evaluation import Evaluation
from qsearch.space.configuration import Configuration
from qsearch.space.space import Space
from qsearch.storage.paths import TRIALS_FILE, study_files
from qsearch.storage.round_state import read_candidates
from qsearch.storage.session_files import database_identity
from qsearch.storage.study_record import empty_trials, read_trials


def rebuilt_experiment(
    directory: Path,
    name: str,
    space: Space,
    metric: str,
    initial: Sequence[tuple[str, Integers]],
    proposed: str,
) -> Experiment:
    """Return a study's experiment as its directory tells, new and not in any database.

    Results come from ``trials.parquet``. Trials without one are those of the first set, and what
    searches found. What the table lacks of a round in work is evaluated again.

    Args:
        directory: The study's directory.
        name: The study's name.
        space: The space.
        metric: Name of the task metric.
        initial: Method and choice indices of each configuration of the first set.
        proposed: Method of all other trials.

    Raises:
        InputError: If no file has the configuration of a trial.
    """
    client = Client()
    client.configure_experiment(
        name=name, description=database_identity(directory), parameters=ax_parameters(space)
    )
    client.configure_optimization(objective=f"-{LOSS}, -{AVERAGE_BITS}")
    client.configure_tracking_metrics([metric, "seconds"])
    path = directory / TRIALS_FILE
    table = read_trials(path) if path.is_file() else empty_trials()
    configurations = dict(enumerate(space.decode(index).to_json() for _, index in initial))
    for file in study_files(directory):
        if file.startswith("state/candidates-"):
            configurations |= read_candidates(directory / file).configurations
    configurations |= dict(zip(table["trial"], table["configuration"], strict=True))
    # The study itself attaches initial trials after the last one with a result.
    later = [number for number in configurations if number >= len(initial)]
    prefix = "" if proposed == "search" else f"{proposed}-"
    for number in range(max([*table["trial"], *later], default=-1) + 1):
        if number not in configurations:
            raise InputError(f"{directory}: no file has the configuration of trial {number}")
        first = number < len(initial)
        index = space.encode(Configuration.from_json(configurations[number]))
        arm = Arm(
            parameters=dict(space.parameters(index)),
            name=f"{initial[number][0]}-{number}" if first else f"{prefix}{number}_0",
        )
        trial = client._experiment.new_trial(generator_run=GeneratorRun(arms=[arm]))
        _set_results(trial, table[table["trial"] == number], metric)
    return client._experiment


def _set_results(trial: Trial, rows: pd.DataFrame, metric: str) -> None:
    """Give a new trial its results of all rounds, and the status that follows from them."""
    trial.mark_running(no_runner_required=True)
    completed = rows[rows["status"] == "completed"]
    failed = rows[rows["status"] == "failed"]
    if len(completed):
        results = [
            (row["round"], ax_data(_evaluation(row), row["average_bits"], metric))
            for row in completed.sort_values("round").to_dict("records")
        ]
        trial.update_trial_data(raw_data=results)
        trial.mark_completed()
    if len(failed):
        row = failed.iloc[0]
        trial.update_run_metadata({FAILED_ROUND: int(row["round"]), FAILED_REASON: row["reason"]})
        # Ax refuses to fail a trial that completed in an earlier round unless told so.
        trial.mark_failed(reason=str(row["reason"])[:100], unsafe=True)


def _evaluation(row: Mapping[Hashable, Any]) -> Evaluation:
    return Evaluation(**{field.name: row[field.name] for field in fields(Evaluation)})
