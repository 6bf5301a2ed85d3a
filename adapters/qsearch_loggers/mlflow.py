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
from qsearch.monitoring.events import Event, Observer
from qsearch_loggers.scalars import Scalar, Scalars

FOLDER = "mlruns"
RUN_FILE = "state/mlflow-run"
"""Identity of the study's run, so that a resumed study goes on with it."""

_URI, _EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
_EVERY = 5.0  # Seconds; a server is sent many figures at once.
_SELDOM = 600.0  # Seconds between two tries, at most, where sending fails.
_MAX_AT_ONCE = 1000  # What MLflow takes in one request.
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
    run = _Run(MlflowClient(tracking_uri=uri), directory, name)
    scalars = Scalars({})
    run.keep(scalars.catch_up(directory))
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
    """A study's MLflow run, and the figures that wait to be sent to it.

    Args:
        client: The client of a server, which need not be there yet.
        directory: The study's directory.
        name: The study's name.
    """

    def __init__(self, client: Any, directory: Path, name: str) -> None:
        self._client = client
        self._directory, self._name = directory, name
        self._id: str | None = None
        self._sent: dict[str, int] = {}  # The last steps of earlier sessions, by name.
        self._waiting: list[Scalar] = []
        self._tried = -float("inf")
        self._pause = _EVERY
        self._is_away = False

    def keep(self, figures: Iterator[Scalar]) -> None:
        self._waiting += figures

    def send_now_and_then(self) -> None:
        """Send what waits, unless that was tried a moment ago; raise the first failure alone."""
        if time.monotonic() - self._tried < self._pause:
            return
        try:
            self._send()
        except Exception:
            # A server that comes back finds the logger waiting, however often it was away.
            if not self._is_away:
                self._is_away = True
                raise
        else:
            self._is_away = False

    def end(self, status: str) -> None:
        """Send what waits and end the run; a server that is away costs one time-out."""
        self._send()
        self._client.set_terminated(self._id, status)

    def _send(self) -> None:
        """Send what waits; what fails goes on waiting, and is tried ever less often."""
        self._pause = min(2 * self._pause, _SELDOM)
        try:
            if self._id is None:
                self._open()
            while self._waiting:
                self._send_part()
        finally:
            self._tried = time.monotonic()
        self._pause = _EVERY

    def _open(self) -> None:
        run = _run_id(self._client, self._directory, self._name)
        for name in self._client.get_run(run).data.metrics:
            history = self._client.get_metric_history(run, name)
            self._sent[name] = max(metric.step for metric in history)
        self._id = run

    def _send_part(self) -> None:
        from mlflow.entities import Metric

        part = self._waiting[:_MAX_AT_ONCE]
        metrics = [
            Metric(figure.name, figure.value, int(1000 * figure.time), figure.step)
            for figure in part
            if figure.step > self._sent.get(figure.name, -1)
        ]
        if metrics:
            self._client.log_batch(self._id, metrics=metrics)
        del self._waiting[: len(part)]


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
