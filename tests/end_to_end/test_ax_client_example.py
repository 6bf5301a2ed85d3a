"""The example of a user's own Ax client: a run, what it saved, and what Ax reports of it."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.core.trial_status import TrialStatus
from ax.storage.sqa_store.db import init_engine_and_session_factory
from ax.utils.common.logger import set_ax_logger_levels

from qsearch.experiment.node import registry_bundle
from tests.end_to_end.conftest import ROOT, run

SCRIPT = ROOT / "examples" / "ax-client" / "search_minilm.py"
INITIAL, CANDIDATES = 4, 2


@pytest.fixture(autouse=True)
def quiet_ax() -> None:
    set_ax_logger_levels(logging.CRITICAL)


def run_example(out: Path, candidates: int) -> str:
    options = ["--out", out, "--initial", INITIAL, "--candidates", candidates]
    return run([sys.executable, SCRIPT, *options]).stdout


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> tuple[Path, str]:
    """The folder of one run and what it printed; the run reloads its client half way."""
    folder = tmp_path_factory.mktemp("example")
    return folder, run_example(folder, CANDIDATES)


@pytest.fixture
def folder(example: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the run's folder, to continue in."""
    return Path(shutil.copytree(example[0], tmp_path / "copy"))


def from_sql(folder: Path) -> Client:
    url = f"sqlite:///{folder / 'ax.db'}"
    init_engine_and_session_factory(url=url, force_init=True)
    storage = StorageConfig(url=url, registry_bundle=registry_bundle())
    return Client.load_from_database("minilm", storage_config=storage)


def trials_of(client: Client) -> list[dict[str, Any]]:
    """Parameters and results of all trials, in order."""
    return [dict(row) for row in client.summarize().to_dict("records")]


def parameters_of(client: Client, row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in client._experiment.search_space.parameters}


def next_parameters(client: Client) -> dict[str, Any]:
    (parameters,) = client.get_next_trials(max_trials=1).values()
    return dict(parameters)


def test_run_evaluates_all_trials_and_prints_a_front(example: tuple[Path, str]) -> None:
    folder, printed = example
    experiment = from_sql(folder)._experiment
    assert len(experiment.trials) == INITIAL + CANDIDATES
    assert {trial.status for trial in experiment.trials.values()} == {TrialStatus.COMPLETED}
    assert "closed the client and loaded it again" in printed
    front = printed.split("front:")[1].split("analyses")[0].strip().splitlines()
    losses = [float(line.split("loss ")[1].split(":")[0]) for line in front]
    assert losses == sorted(losses, reverse=True)
    assert losses


def test_same_command_continues_with_an_interrupted_trial(folder: Path) -> None:
    client = from_sql(folder)
    interrupted = next_parameters(client)  # It is proposed and saved, but never evaluated.
    printed = run_example(folder, CANDIDATES + 1)
    assert printed.count("loss") - printed.split("front:")[1].count("loss") == 1
    rows = trials_of(from_sql(folder))
    assert len(rows) == INITIAL + CANDIDATES + 1
    assert parameters_of(client, rows[-1]) == interrupted
    assert rows[-1]["trial_status"] == "COMPLETED"


def test_analyses_name_the_node_of_generated_trials(example: tuple[Path, str]) -> None:
    folder, printed = example
    analyses = dict(
        line.rsplit(": ", 1) for line in printed.split("node:\n")[1].strip().splitlines()
    )
    assert analyses["Summary for minilm"] == "['generation_node']"
    assert analyses["Generation Strategy Graph"] == "['node_name']"
    nodes = from_sql(folder).summarize()["generation_node"]
    assert nodes[:INITIAL].isna().all()
    assert (nodes[INITIAL:] == "qsearch").all()
