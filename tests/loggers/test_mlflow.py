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
from qsearch.monitoring.events import Event
from tests.loggers.runs import SPEC, Recording, Session

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


def runs_of(client: Any) -> list[Any]:
    found = client.get_experiment_by_name("qsearch")
    return list(client.search_runs([found.experiment_id]))


def assert_one_complete_run(recording: Recording, folder: Path) -> None:
    client = client_of(folder)
    (found,) = runs_of(client)
    logged = {
        name: sorted(
            (metric.step, metric.value)
            for metric in client.get_metric_history(found.info.run_id, name)
        )
        for name in found.data.metrics
    }
    recording.assert_complete(logged)
    assert found.info.run_name == SPEC.name
    assert found.info.status == "FINISHED"


@pytest.mark.parametrize("uri", [None, "server"])
def test_a_resumed_study_continues_the_one_run_in_its_directory_or_at_the_tracking_uri(
    recording: Recording, tmp_path: Path, uri: str | None
) -> None:
    folder = tmp_path / (uri or "mlruns")
    if uri is not None:
        os.environ["MLFLOW_TRACKING_URI"] = folder.as_uri()
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    recording.first.play("mlflow", tmp_path)
    (found,) = runs_of(client_of(folder))
    assert found.info.status == "KILLED"
    recording.second.play("mlflow", tmp_path)
    assert_one_complete_run(recording, folder)
    assert (tmp_path / "mlruns").exists() == (uri is None)


def test_a_run_that_is_gone_is_logged_again(recording: Recording, tmp_path: Path) -> None:
    recording.first.play("mlflow", tmp_path)
    (tmp_path / RUN_FILE).write_text("0" * 32)
    recording.second.play("mlflow", tmp_path)
    client = client_of(tmp_path / "mlruns")
    run = (tmp_path / RUN_FILE).read_text().strip()
    history = client.get_metric_history(run, "evaluation/loss")
    assert len(history) == len(recording.values["evaluation/loss"])


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


def test_a_server_that_is_away_at_first_gets_everything_later(
    recording: Recording,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = Server(monkeypatch)

    def come_back(event: Event) -> None:
        server.is_away = server.is_away and (event.kind, event.round) != ("trained", 2)

    whole = Session("", recording.first.events + recording.second.events)
    whole.play("mlflow", tmp_path, come_back)
    (warning,) = capsys.readouterr().err.splitlines()
    expected = "logger 'mlflow' failed and will try again, the study continues: ConnectionError"
    assert expected in warning
    assert server.refused > 3
    assert_one_complete_run(recording, tmp_path / "mlruns")


def test_a_server_that_stays_away_is_tried_once_more_at_the_end(
    recording: Recording,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = Server(monkeypatch)
    refused: list[int] = []
    recording.first.play("mlflow", tmp_path, lambda event: refused.append(server.refused))
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
    with pytest.raises(InputError, match=r"pip install 'qsearch-llm\[mlflow\]'"):
        mlflow(tmp_path, "fake")
    assert list(tmp_path.iterdir()) == []
