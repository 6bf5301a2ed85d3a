"""Faults that a study survives: each kind, several times, and trials compared with a calm run's.

The study is the quickstart on the real MiniLM with fewer texts, steps and configurations. Each
study with faults must come to the trials of the study without, exactly.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from benchmarks.operations_kills import QUICKSTART, differing_trials
from benchmarks.recording import Benchmark
from benchmarks.reproducibility import CHANGES
from qsearch.errors import DamagedFileError, QsearchError
from qsearch.execution.workers import Workers
from qsearch.monitoring.events import Event
from qsearch.plugins.registry import load_plugin
from qsearch.spec.study_spec import load_spec
from qsearch.storage.paths import study_files
from qsearch.study.run import run_spec
from tests.postgres_server import PostgresServer

OUTAGE_SECONDS = 60.0
_DISK_MEBIBYTES = (1, 2, 3, 4, 5, 6)
_EVALUATION_FAULTS: dict[str, float | Exception] = {
    "not a number": float("nan"),
    "out of memory": MemoryError("no memory left"),
    "exception": ValueError("the device is gone"),
    "too slow": 3600.0,
}
_EACH = 3


def faults(benchmark: Benchmark) -> None:
    """Put a study through each kind of fault, and record whether anything was lost."""
    with tempfile.TemporaryDirectory(prefix="qsearch-") as folder:
        calm = Path(folder) / "calm"
        run(calm)
        for kind, put in KINDS.items():
            directory = Path(folder) / "run"
            shutil.rmtree(directory, ignore_errors=True)
            start = time.monotonic()
            times = put(directory)
            lost = differing_trials(calm, directory)
            seconds = round(time.monotonic() - start)
            benchmark.row(fault=kind, times=times, **{"trials lost": lost, "seconds": seconds})
            benchmark.claim(f"trials lost to {kind}", lost, 0, "lower")


def run(directory: Path, *overrides: str, **named: Any) -> None:
    """Run the study, or go on with it."""
    run_spec(load_spec(QUICKSTART, (*CHANGES, *overrides)), directory, **named)


def workers_die(directory: Path) -> int:
    """Kill a worker in each of some random moments while workers evaluate."""
    generator, killed = np.random.default_rng(0), 0

    def observe(event: Event) -> None:
        nonlocal killed
        if event.kind == "evaluated" and killed < _EACH and event.fields["done"] % 3 == 1:
            found = [one for one in psutil.Process().children(recursive=True) if _is_worker(one)]
            os.kill(found[generator.integers(len(found))].pid, signal.SIGKILL)
            killed += 1

    run(directory, observer=observe, workers=Workers(2, threads=_threads()))
    return killed


def _is_worker(process: psutil.Process) -> bool:
    return any(part.startswith("ray::Worker") for part in process.cmdline())


def database_goes_away(directory: Path) -> int:
    """Kill the PostgreSQL server of a study, for a minute once and for some seconds else."""
    server_folder = Path(tempfile.mkdtemp(prefix="qsearch-pg-"))
    server = PostgresServer(server_folder)
    outages: list[threading.Thread] = []

    def come_back(seconds: float) -> None:
        time.sleep(seconds)
        server.start()

    def observe(event: Event) -> None:
        if event.kind in ("evaluated", "searched", "trained") and len(outages) < _EACH:
            if outages and outages[-1].is_alive():
                return
            server.kill()
            seconds = 3.0 if outages else OUTAGE_SECONDS
            outages.append(threading.Thread(target=come_back, args=[seconds]))
            outages[-1].start()

    try:
        run(directory, storage_url=server.new_database(), observer=observe)
        for outage in outages:
            outage.join()
    finally:
        if server.is_running():
            server.stop()
        shutil.rmtree(server_folder, ignore_errors=True)
    return len(outages)


def evaluations_fail(directory: Path) -> int:
    """Have evaluations fail in each way, some times each; each is tried again and then succeeds."""
    trainer = load_plugin("trainers", "coa-lora")
    original = trainer.evaluate
    left = [fault for fault in _EVALUATION_FAULTS.values() for _ in range(_EACH)]
    total, calls = len(left), 0

    def evaluate(self: Any, configurations: Sequence[Any], split: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 2 or not left:
            return original(self, configurations, split)
        fault = left.pop()
        if isinstance(fault, Exception):
            raise fault
        if fault > 0:
            time.sleep(fault)
        (found,) = original(self, configurations, split)
        return [replace(found, loss=fault)]

    limits = ("failures.retries=1", "failures.timeout_seconds=5")
    with patch.object(trainer, "evaluate", evaluate):
        run(directory, *limits)
    return total - len(left)


def disk_is_full(directory: Path) -> int:
    """Run the study on disks too small for it, each a little larger, then on one large enough."""
    times = 0
    with _small_disk(directory.parent / "disk", _DISK_MEBIBYTES[0]) as (disk, resize):
        for mebibytes in (*_DISK_MEBIBYTES, 256):
            resize(mebibytes)
            try:
                run(disk / "run")
            except QsearchError as error:
                if "cannot be written" not in str(error):
                    raise
                times += 1
        shutil.copytree(disk / "run", directory)
    return times


@contextmanager
def _small_disk(folder: Path, mebibytes: int) -> Iterator[tuple[Path, Callable[[int], None]]]:
    def mount(*options: str) -> None:
        subprocess.run(["mount", *options, str(folder)], check=True)

    folder.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs")
    try:
        yield folder, lambda size: mount("-o", f"remount,size={size}m")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def state_files_are_torn(directory: Path) -> int:
    """Cut each state file of a stopped study in half, delete it where told to, and resume."""
    torn: set[str] = set()
    with suppress(StopIteration):
        while True:
            try:
                run(directory, observer=_stop_after(2))
                break
            except _StoppedError:
                files = study_files(directory).items()
                again = (name for name, kind in files if kind.made_again and kind.archived)
                name = next(name for name in again if name not in torn and "state/" in name)
                torn.add(name)
                path = directory / name
                content = path.read_bytes()
                path.write_bytes(content[: len(content) // 2])
            except DamagedFileError:
                path.unlink()
    run(directory)
    return len(torn)


class _StoppedError(Exception):
    """Ends a session where a kill might."""


def _stop_after(evaluations: int) -> Callable[[Event], None]:
    left = evaluations

    def observe(event: Event) -> None:
        nonlocal left
        left -= event.kind == "evaluated"
        if left < 0:
            raise _StoppedError

    return observe


def _threads() -> int:
    import torch

    return torch.get_num_threads()


KINDS: dict[str, Callable[[Path], int]] = {
    "workers that are killed": workers_die,
    "a database that goes away": database_goes_away,
    "evaluations that fail": evaluations_fail,
    "a full disk": disk_is_full,
    "torn state files": state_files_are_torn,
}
"""Puts a study in a directory through a kind of fault, to its end; returns how often."""
