"""MLflow's runs, read by MLflow."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qsearch_loggers.mlflow_logger import RUN_FILE, mlflow

from qsearch.errors import InputError
from tests.loggers.runs import SPEC, expected, failures, run

pytest.importorskip("mlflow", reason="the dev extra brings mlflow")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Leave the environment as it was: the logger gives MLflow its settings there."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


def client_of(folder: Path) -> Any:
    from mlflow import MlflowClient

    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    return MlflowClient(tracking_uri=folder.resolve().as_uri())


def runs_of(client: Any, experiment: str = "qsearch") -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id]))


def assert_complete(directory: Path, folder: Path) -> None:
    """Assert that each figure of the study is in its one run once, with rising steps."""
    client = client_of(folder)
    (found,) = runs_of(client)
    for name, values in expected(directory).items():
        metrics = sorted(client.get_metric_history(found.info.run_id, name), key=lambda m: m.step)
        steps = [metric.step for metric in metrics]
        assert len(set(steps)) == len(steps), name
        assert [metric.value for metric in metrics] == pytest.approx(values, rel=1e-6), name
    assert found.data.metrics["failures"] == failures(directory) > 0
    assert found.info.run_name == SPEC.name
    assert found.info.status == "FINISHED"


def test_a_study_is_one_run_in_its_directory(tmp_path: Path) -> None:
    run("mlflow", tmp_path)
    assert_complete(tmp_path, tmp_path / "mlruns")


def test_a_resumed_study_goes_on_with_its_run(tmp_path: Path) -> None:
    run("mlflow", tmp_path, stop_at=("training", 1, 2))
    (found,) = runs_of(client_of(tmp_path / "mlruns"))
    assert found.info.status == "KILLED"
    run("mlflow", tmp_path)
    assert_complete(tmp_path, tmp_path / "mlruns")


def test_the_environments_tracking_uri_is_used(tmp_path: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = (tmp_path / "server").as_uri()
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    run("mlflow", tmp_path / "study")
    assert_complete(tmp_path / "study", tmp_path / "server")
    assert not (tmp_path / "study" / "mlruns").exists()


def test_a_run_that_is_gone_is_logged_anew(tmp_path: Path) -> None:
    run("mlflow", tmp_path, stop_at=("evaluated", 1, 0))
    (tmp_path / RUN_FILE).write_text("0" * 32)
    run("mlflow", tmp_path)
    client = client_of(tmp_path / "mlruns")
    latest = max(runs_of(client), key=lambda found: found.info.start_time)
    history = client.get_metric_history(latest.info.run_id, "evaluation/loss")
    assert len(history) == len(expected(tmp_path)["evaluation/loss"])


def test_mlflow_tells_nobody_else(tmp_path: Path) -> None:
    mlflow(tmp_path, "fake")
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert is_telemetry_disabled()


def test_without_mlflow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"pip install 'qsearch\[mlflow\]'"):
        mlflow(tmp_path, "fake")
    assert list(tmp_path.iterdir()) == []
