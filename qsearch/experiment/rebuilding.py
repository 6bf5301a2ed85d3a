"""A study's trials made again from the files of its directory, after it came from an archive."""

from __future__ import annotations

from pathlib import Path

from qsearch.errors import InputError
from qsearch.experiment.trials import Trials
from qsearch.plugins.evaluation import Evaluation
from qsearch.space.configuration import Configuration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.storage.paths import RESTORED, TRIALS_FILE, study_files
from qsearch.storage.round_state import CANDIDATES
from qsearch.storage.study_record import empty_trials, read_trials, row_metrics


def rebuild_trials(
    trials: Trials, directory: Path, space: ConfigurationSpace, proposed: str
) -> None:
    """Give a new experiment, which has its first set, the trials and results of its directory.

    Results come from ``trials.parquet``, and trials without one, whose method is ``proposed``, from
    what searches found. What the table lacks of the current round is evaluated again. After a kill,
    the rest is done at the next call.
    """
    path = directory / TRIALS_FILE
    table = read_trials(path, trials.metrics) if path.is_file() else empty_trials()
    texts: dict[int, str] = {}
    for name in study_files(directory):
        if name.startswith("state/candidates-"):
            texts |= CANDIDATES.read(directory / name).configurations
    texts |= dict(zip(table["trial"], table["configuration"], strict=True))
    methods = dict(zip(table["trial"], table["method"], strict=True))
    for number in range(len(trials), max(texts, default=-1) + 1):
        if number not in texts:
            raise InputError(f"{directory}: no file has the configuration of trial {number}")
        index = space.encode(Configuration.from_json(texts[number]))
        trials.attach(number, [(str(methods.get(number, proposed)), index)])
    for _, row in table.sort_values(["status", "round", "trial"]).iterrows():
        number, round = int(row["trial"]), int(row["round"])
        if row["status"] == "failed":
            if number not in trials.failures():
                trials.save_failure(number, round, str(row["reason"]))
        elif number not in trials.evaluated_in(round):
            loss, error = float(row["loss"]), float(row["standard_error"])
            metrics = row_metrics(trials.metrics, row)
            trials.save_result(
                number, round, Evaluation(loss, error, metrics, float(row["seconds"]))
            )
    (directory / RESTORED).unlink()
