"""MLflow's runs, read by MLflow."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qsearch_loggers import mlflow as mlflow_logger
from qsearch_loggers.mlflow import RUN_FILE, mlflow

from qsearch.errors import InputError
from qsearch.monitoring.events import Event, Observer, all_of
from qsearch.monitoring.loggers import loggers
from qsearch.study.run import run_study
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
    run("mlflow", tmp_path, stop_at=("training", 2, 2))
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


def test_a_run_that_is_gone_is_logged_again(tmp_path: Path) -> None:
    run("mlflow", tmp_path, stop_at=("evaluated", 2, 0))
    (tmp_path / RUN_FILE).write_text("0" * 32)
    run("mlflow", tmp_path)
    client = client_of(tmp_path / "mlruns")
    latest = max(runs_of(client), key=lambda found: found.info.start_time)
    history = client.get_metric_history(latest.info.run_id, "evaluation/loss")
    assert len(history) == len(expected(tmp_path)["evaluation/loss"])


class Server:
    """MLflow's files, as a server that may be away."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        import mlflow as package

        self.is_away = True
        self.refused = 0
        server = self

        class Client(package.MlflowClient):
            def __getattribute__(self, name: str) -> Any:
                if server.is_away and not name.startswith("_"):
                    server.refused += 1
                    raise ConnectionError(f"refused: {name}")
                return super().__getattribute__(name)

        patch.setattr(package, "MlflowClient", Client)
        patch.setattr(mlflow_logger, "_EVERY", 0.0)


def run_with(observer: Observer, directory: Path) -> None:
    """Run the study with the logger, which is not dropped, and an observer after it."""
    warnings: list[str] = []
    with loggers(["mlflow"], directory, SPEC.name, warnings.append) as observers:
        run_study(SPEC, directory, observer=all_of([*observers, observer]))
    assert warnings == []


def test_a_server_that_is_away_at_first_gets_everything_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(monkeypatch)

    def come_back(event: Event) -> None:
        server.is_away = server.is_away and (event.kind, event.round) != ("trained", 2)

    run_with(come_back, tmp_path)
    (warning,) = capsys.readouterr().err.splitlines()
    expected = "logger 'mlflow' failed and will try again, the study goes on: ConnectionError"
    assert expected in warning
    assert server.refused > 3
    assert_complete(tmp_path, tmp_path / "mlruns")


def test_a_server_that_stays_away_is_tried_once_more_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(monkeypatch)
    refused: list[int] = []
    run_with(lambda event: refused.append(server.refused), tmp_path)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert server.refused == refused[-1] + 1


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
