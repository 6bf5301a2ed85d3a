"""From a study YAML to a front, a pick and an export, on the real MiniLM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ax.api.client import Client
from ax.api.configs import StorageConfig
from ax.storage.sqa_store.db import init_engine_and_session_factory

from qsearch.experiment.node import registry_bundle
from qsearch.storage.study_record import read_study


def test_study_directory_holds_every_promised_file(study: Path) -> None:
    expected = ("study.yaml", "study.db", "trials.parquet", "log.jsonl", "report.html")
    assert [name for name in expected if not (study / name).is_file()] == []


def test_the_log_has_the_cache_of_each_training(study: Path) -> None:
    lines = [json.loads(line) for line in (study / "log.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["event"] == "trained"]
    assert len(trained) == 2
    for line in trained:
        assert 0 <= line["cache_hit_rate"] <= 1
        assert 0 < line["cache_mebibytes"] <= line["cache_mebibytes_allowed"]
        assert {"switch_seconds", "switch_share"} <= line.keys()


def test_database_holds_every_evaluation_with_its_round(study: Path) -> None:
    trials = read_study(study).trials
    url = f"sqlite:///{study / 'study.db'}"
    # Ax keeps one engine for the whole process; another test may have opened another database.
    init_engine_and_session_factory(url=url, force_init=True)
    storage = StorageConfig(url=url, registry_bundle=registry_bundle())
    experiment = Client.load_from_database("small", storage_config=storage)._experiment
    assert sorted(experiment.trials) == sorted(trials["trial"].unique())
    data = experiment.lookup_data().full_df.set_index(["trial_index", "step", "metric_name"])
    losses = data.xs("loss", level="metric_name").sort_index()
    expected = trials.set_index(["trial", "round"]).sort_index()
    assert [tuple(key) for key in losses.index] == list(expected.index)
    # Ax stores its data with ten decimals.
    assert losses["mean"].to_numpy() == pytest.approx(expected["loss"].to_numpy(), abs=1e-9)
    errors = expected["standard_error"].to_numpy()
    assert losses["sem"].to_numpy() == pytest.approx(errors, abs=1e-9)
    metric = data.xs("accuracy", level="metric_name").sort_index()
    assert metric["mean"].to_numpy() == pytest.approx(expected["metric"].to_numpy(), abs=1e-9)
