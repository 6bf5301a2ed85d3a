"""The Ray cluster whose workers evaluate: joining or starting one, and errors of its workers."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import threading
from typing import Any

# No usage statistics leave the machine unless the user has asked for it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# The study waits for its workers, so they have its own priority.
os.environ.setdefault("RAY_worker_niceness", "0")
# The study itself reports each worker that dies.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker died or was killed|workers died")

import ray
from ray.exceptions import RayError, RayTaskError

from qsearch._text import in_one_line, reason_of
from qsearch.errors import InputError
from qsearch.execution.workers import Workers

_CONNECT_TIMEOUT = 10.0
"""Seconds that a cluster's address may take to answer."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def _require_listening(address: str) -> None:
    """Raise OSError unless an address answers: Ray itself would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT).close()


def connect(workers: Workers) -> None:
    """Start a cluster on this machine, or join one."""
    if ray.is_initialized():
        raise InputError("this process uses Ray already; end that first, by ray.shutdown()")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if workers.address is None:
        cores = workers.count * workers.threads_each
        options |= {"num_cpus": cores, "include_dashboard": False}
    # Ray handles signals itself; they must still interrupt the study.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _require_listening(workers.address or "")
        # Without an address, never a cluster that happens to run here.
        ray.init(address=workers.address or "local", **options)
    except (OSError, ValueError, RuntimeError) as error:
        source = f"--address {workers.address!r}" if workers.address else "Ray on this machine"
        raise InputError(f"{source}: cannot be used: {in_one_line(error)}") from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
    gpus = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    if workers.address is None and workers.gpus * workers.count > gpus:
        ray.shutdown()
        raise InputError(
            f"{workers.count} workers of {workers.gpus:g} GPUs each: this machine has {gpus:g}"
        )


def reason_of_loss(error: RayError) -> str:
    """Return in one line why a worker is lost."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if cause is not None:
        return reason_of(cause)
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    return in_one_line(lines[-1] if isinstance(error, RayTaskError) else lines[0])


def kill(actor: Any) -> None:
    """End a worker, if it still runs."""
    with contextlib.suppress(RayError, ValueError):
        ray.kill(actor, no_restart=True)
