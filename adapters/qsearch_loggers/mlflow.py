"""MLflow: a study as one run, in DIR/mlruns or at the tracking URI of the environment."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from qsearch._distribution import install_extra
from qsearch._text import warn
from qsearch.errors import InputError
from qsearch.monitoring.events import Event, EventKind, Observer
from qsearch.monitoring.loggers import masked_reason
from qsearch.storage.files import write_bytes
from qsearch_loggers.scalars import Scalars

FOLDER = "mlruns"
RUN_FILE = "state/mlflow-run"
"""Identity of the study's run, so that a resumed study continues it."""

_URI, _EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
_EVERY = 5.0  # Seconds; a server is sent many values at once.
_MAX_PAUSE = 600.0  # Seconds between two tries where sending fails.
_MAX_AT_ONCE = 1000  # What MLflow takes in one request.
_STATUS = {EventKind.FINISHED: "FINISHED", EventKind.STOPPED: "FAILED"}
_SETTINGS = {
    # qsearch reaches what its user names, and nobody else.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that is away must not hold the study up for long.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # Standard output is for results.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def mlflow(directory: Path, name: str) -> AbstractContextManager[Observer]:
    """Return a logger to the environment's ``MLFLOW_TRACKING_URI``, else ``directory/mlruns``.

    Its run is called as the study is. MLflow's settings that the environment does not have are set
    for this process.

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
            "--logger mlflow: MLflow is not installed; install the extra:"
            f" {install_extra('mlflow')}"
        ) from error
    return _opened(directory, name)


@contextlib.contextmanager
def _opened(directory: Path, name: str) -> Iterator[Observer]:
    from mlflow import MlflowClient

    uri = os.environ.get(_URI) or (directory / FOLDER).resolve().as_uri()
    run = _Run(MlflowClient(tracking_uri=uri), directory, name)
    try:
        yield run.observe
    finally:
        run.end()


class _Run:
    """A study's MLflow run, and the values that wait to be sent to it.

    The server need not be there yet: a failure is warned of once, and tried again ever less often.
    """

    def __init__(self, client: Any, directory: Path, name: str) -> None:
        self._scalars = Scalars({})
        self._waiting = list(self._scalars.catch_up(directory))
        self._status = "KILLED"
        self._client, self._directory, self._name = client, directory, name
        self._id: str | None = None
        self._sent: dict[str, int] = {}  # The last steps of earlier sessions, by name.
        self._tried = -float("inf")
        self._pause = _EVERY
        self._is_away = False

    def observe(self, event: Event) -> None:
        """Take in an event, and send what waits unless that was tried a moment ago."""
        self._status = _STATUS.get(event.kind, "KILLED")
        self._waiting += self._scalars.of(event)
        if time.monotonic() - self._tried >= self._pause:
            self._try(self._send, "failed and will try again, the study continues")

    def end(self) -> None:
        """Send what waits and end the run; a server that is away costs one time-out."""

        def send_and_end() -> None:
            self._send()
            self._client.set_terminated(self._id, self._status)

        self._try(send_and_end, "failed; the next session sends what is missing")

    def _try(self, work: Callable[[], None], consequence: str) -> None:
        try:
            work()
        except Exception as error:
            if not self._is_away:
                reason = masked_reason(error)
                warn(f"logger 'mlflow' {consequence}: {reason}")
            self._is_away, self._pause = True, min(2 * self._pause, _MAX_PAUSE)
        else:
            self._is_away, self._pause = False, _EVERY
        self._tried = time.monotonic()

    def _send(self) -> None:
        from mlflow.entities import Metric

        if self._id is None:
            self._open()
        while part := self._waiting[:_MAX_AT_ONCE]:
            metrics = [
                Metric(scalar.name, scalar.value, int(1000 * scalar.time), scalar.step)
                for scalar in part
                if scalar.step > self._sent.get(scalar.name, -1)
            ]
            if metrics:
                self._client.log_batch(self._id, metrics=metrics)
            del self._waiting[: len(part)]

    def _open(self) -> None:
        run = _run_id(self._client, self._directory, self._name)
        for name in self._client.get_run(run).data.metrics:
            history = self._client.get_metric_history(run, name)
            self._sent[name] = max(metric.step for metric in history)
        self._id = run


def _run_id(client: Any, directory: Path, name: str) -> str:
    """Return the study's run at this tracking URI: that of earlier sessions, or a new one."""
    from mlflow.exceptions import MlflowException

    path = directory / RUN_FILE
    saved = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if re.fullmatch("[0-9a-f]{32}", saved):
        try:
            client.update_run(saved, status="RUNNING")
            return saved
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    name_of_experiment = os.environ.get(_EXPERIMENT) or "qsearch"
    experiment = client.get_experiment_by_name(name_of_experiment)
    number = (
        experiment.experiment_id if experiment else client.create_experiment(name_of_experiment)
    )
    run_id: str = client.create_run(number, run_name=name).info.run_id
    write_bytes(path, f"{run_id}\n".encode())
    return run_id
