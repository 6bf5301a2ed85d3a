"""MLflow: a study as one run, in DIR/mlruns or at the tracking URI of the environment."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from qsearch.errors import InputError
from qsearch.events import Event, Observer
from qsearch_loggers.scalars import Scalar, Scalars

FOLDER = "mlruns"
RUN_FILE = "state/mlflow-run"
"""Identity of the study's run, so that a resumed study goes on with it."""

_URI, _EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
_EVERY = 5.0  # Seconds; a server is sent many figures at once.
_SELDOM = 600.0  # Seconds between two tries, at most, where sending fails.
_MOST_AT_ONCE = 1000  # What MLflow takes in one request.
_STATUS = {"finished": "FINISHED", "stopped": "FAILED"}
_SETTINGS = {
    # qsearch reaches what its user names, and nobody else.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that is away shall not hold the study up for long.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # Standard output is for results.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def mlflow(directory: Path, name: str) -> AbstractContextManager[Observer]:
    """Return a logger to the environment's ``MLFLOW_TRACKING_URI``, else ``directory/mlruns``.

    MLflow's settings that the environment does not have are set for this process.

    Args:
        directory: The study's directory.
        name: The study's name; the run is called so.

    Raises:
        InputError: If MLflow is not installed.
    """
    for variable, value in _SETTINGS.items():
        os.environ.setdefault(variable, value)
    if not os.environ.get(_URI):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--logger mlflow: MLflow is not installed; pip install 'qsearch[mlflow]'"
        ) from error
    return _opened(directory, name)


@contextlib.contextmanager
def _opened(directory: Path, name: str) -> Iterator[Observer]:
    from mlflow import MlflowClient

    uri = os.environ.get(_URI) or (directory / FOLDER).resolve().as_uri()
    client = MlflowClient(tracking_uri=uri)
    run = _Run(client, _run_id(client, directory, name))
    scalars = Scalars(run.last_steps())
    run.keep(scalars.catch_up(directory))
    run.send()
    last = ""

    def observe(event: Event) -> None:
        nonlocal last
        last = event.kind
        run.keep(scalars.of(event))
        run.send_now_and_then()

    try:
        yield observe
    finally:
        run.end(_STATUS.get(last, "KILLED"))


class _Run:
    """An MLflow run, and the figures that wait to be sent to it."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._id = run_id
        self._waiting: list[Scalar] = []
        self._tried = time.monotonic()
        self._pause = _EVERY

    def last_steps(self) -> dict[str, int]:
        """Return the last step by name of what earlier sessions have sent."""
        names = self._client.get_run(self._id).data.metrics
        return {
            name: max(metric.step for metric in self._client.get_metric_history(self._id, name))
            for name in names
        }

    def keep(self, figures: Iterator[Scalar]) -> None:
        self._waiting += figures

    def send_now_and_then(self) -> None:
        if time.monotonic() - self._tried >= self._pause:
            self.send()

    def send(self) -> None:
        """Send what waits; what fails goes on waiting, and is tried ever less often."""
        from mlflow.entities import Metric

        self._pause = min(2 * self._pause, _SELDOM)
        while self._waiting:
            part = self._waiting[:_MOST_AT_ONCE]
            metrics = [Metric(f.name, f.value, int(1000 * f.time), f.step) for f in part]
            try:
                self._client.log_batch(self._id, metrics=metrics)
            finally:
                self._tried = time.monotonic()
            del self._waiting[: len(part)]
        self._pause = _EVERY

    def end(self, status: str) -> None:
        try:
            self.send()
        finally:
            self._client.set_terminated(self._id, status)


def _run_id(client: Any, directory: Path, name: str) -> str:
    """Return the study's run at this tracking URI: that of earlier sessions, or a new one."""
    from mlflow.exceptions import MlflowException

    path = directory / RUN_FILE
    known = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if re.fullmatch("[0-9a-f]{32}", known):
        try:
            client.update_run(known, status="RUNNING")
            return known
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    experiment = os.environ.get(_EXPERIMENT) or "qsearch"
    found = client.get_experiment_by_name(experiment)
    where = found.experiment_id if found else client.create_experiment(experiment)
    run_id: str = client.create_run(where, run_name=name).info.run_id
    path.write_text(run_id + "\n", encoding="utf-8")
    return run_id
