"""Killing the quickstart at 20 random moments: its trials must be those of an uninterrupted run.

Moments are drawn from an uninterrupted run's log, some in each phase. One study is killed at all of
them by SIGKILL, and started again after each.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.recording import Benchmark
from qsearch.monitoring.events import read_events
from qsearch.storage.paths import LOG
from qsearch.storage.study_record import read_study

QUICKSTART = Path(__file__).parent.parent / "studies" / "quickstart.yaml"

KILLS = {
    "training": 4,
    "evaluating the set": 4,
    "searching": 3,
    "evaluating candidates": 4,
    "saving": 3,
    "writing the report": 2,
}
"""Moments by phase, 20 in all."""

PATIENCE_SECONDS = 1800.0
_LOOK_SECONDS = 0.002
_WHOLE = ("evaluated", "trained", "searched", "round finished")
"""Events of work that is finished and never repeated."""


@dataclass(frozen=True)
class Moment:
    """When a study is killed.

    Args:
        phase: What the uninterrupted study was doing then.
        at: Seconds from the start of the uninterrupted study.
        after: The event that begins it: kind, round and, if it has one, trial.
        seconds: Seconds after that event; or, if there is a file, after it has appeared.
        file: A file of the study's directory, or None.
    """

    phase: str
    at: float
    after: tuple[Any, ...]
    seconds: float
    file: str | None = None


def draw_moments(
    directory: Path, generator: np.random.Generator, kills: Mapping[str, int]
) -> list[Moment]:
    """Return random moments of a study, in order.

    Args:
        directory: The study, run without interruption.
        generator: Draws them.
        kills: How many of each phase.
    """
    spans = list(_spans(directory))
    moments = []
    for phase, count in kills.items():
        of_phase = [span for span in spans if span[0] == phase]
        length = np.array([end - start for _, start, end, _, _ in of_phase])
        for chosen in generator.choice(len(of_phase), count, p=length / length.sum()):
            _, start, end, key, file = of_phase[chosen]
            # A file is there in no time: its moment is just when it appears.
            within = generator.random() * (0.01 if file else end - start)
            moments.append(Moment(phase, start + within, key, within, file))
    return sorted(moments, key=lambda moment: moment.at)


def _spans(directory: Path) -> Iterator[tuple[str, float, float, tuple[Any, ...], str | None]]:
    """Yield phase, start, end, event before, and file, of each piece of an uninterrupted run."""
    log = read_events(directory / LOG)
    times = [datetime.fromisoformat(line["time"]).timestamp() for line in log]
    since = [at - times[0] for at in times]
    phase = ""
    for line, start, end in zip(log, since, since[1:], strict=False):
        key, round = _key(line), line["round"]
        if line["event"] == "round started":
            phase = "training"
        elif line["event"] in ("evaluating the set", "evaluating candidates"):
            phase = line["event"]
        elif line["event"] in ("trained", "searched", "round finished"):
            name = {"trained": "adapter-{}.safetensors", "searched": "candidates-{}.json"}.get(
                line["event"], "round-{}.json"
            )
            yield "saving", start, start + 1, key, f"state/{name.format(round)}"
            phase = ""
        if phase:
            yield phase, start, end, key, None
        if line["event"] == "evaluated" and line["done"] == line["total"]:
            phase = "searching" if phase == "evaluating the set" else ""
            if phase:
                yield phase, start, end, key, None
    report = (directory / "report.html").stat().st_mtime - times[0]
    yield "writing the report", since[-1], max(report, since[-1] + 0.1), _key(log[-1]), None


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line["event"], line["round"], line.get("trial")


@dataclass(frozen=True)
class Kill:
    """What a kill found, and what it cost.

    Args:
        moment: When it was meant to be.
        last: The last event that the log held.
        seconds: Wall time of the session that it ended.
    """

    moment: Moment
    last: str
    seconds: float


class Process(Protocol):
    """What a kill needs of ``subprocess.Popen``."""

    @property
    def returncode(self) -> int | Any: ...
    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def communicate(self) -> tuple[Any, Any]: ...


def new_process(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a command whose errors are kept and whose output is not."""
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(environment),
    )


def kill_at(
    moments: Sequence[Moment],
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    begin: Callable[[Sequence[str], Mapping[str, str]], Process] = new_process,
) -> list[Kill]:
    """Start a study again and again, killing it at each of the moments.

    What a moment waits for may have happened in an earlier session; its seconds then count from
    when the session has opened the study.

    Args:
        moments: In order.
        command: Runs the study.
        directory: Its directory.
        environment: Of the command.
        begin: Starts a command with an environment.

    Returns:
        The kills; a session that came to its end before its moment is none.
    """
    kills = []
    for moment in moments:
        lines = len(read_events(directory / LOG))
        start = time.monotonic()
        process = begin(command, environment)
        if _wait(process, moment, directory, lines, start + PATIENCE_SECONDS):
            process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the study ended with {process.returncode}: {said}")
        if process.returncode:
            log = read_events(directory / LOG)
            last = str(log[-1]["event"]) if log else "nothing"
            kills.append(Kill(moment, last, time.monotonic() - start))
    return kills


def _wait(process: Process, moment: Moment, directory: Path, lines: int, until: float) -> bool:
    """Wait for a moment; return whether the process still runs then."""
    file = None if moment.file is None else directory / moment.file
    is_to_come = file is not None and not file.is_file()
    while process.poll() is None:
        if time.monotonic() > until:
            raise TimeoutError(f"{moment} did not come")
        if is_to_come and file is not None and file.is_file():
            break
        log = read_events(directory / LOG)
        is_open = any(line["event"] == "started" for line in log[lines:])
        # Events of every session count in this one.
        known = log if moment.after[0] in _WHOLE else log[lines:]
        if is_open and not is_to_come and moment.after in map(_key, known):
            break
        time.sleep(_LOOK_SECONDS)
    with_rest = time.monotonic() + moment.seconds
    while process.poll() is None and time.monotonic() < with_rest:
        time.sleep(_LOOK_SECONDS)
    return process.poll() is None


def done_again(directory: Path) -> int:
    """Return how many trainings, evaluations, searches and rounds a study's log holds twice."""
    done = [_key(line) for line in read_events(directory / LOG) if line["event"] in _WHOLE]
    return len(done) - len(set(done))


def differing_trials(calm: Path, directory: Path) -> int:
    """Return how many trials of two studies differ in anything but wall time."""
    one, other = (read_study(path).trials.drop(columns="seconds") for path in (calm, directory))
    if len(one) != len(other):
        return abs(len(one) - len(other))
    equal = one.eq(other) | (one.isna() & other.isna())
    return int((~equal).any(axis=1).sum())


def kills(benchmark: Benchmark, changes: Sequence[str] = ()) -> None:
    """Run the study whole and killed, and record what each kill met.

    Args:
        benchmark: Where rows and claims go.
        changes: ``section.field=value`` changes of the study.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"

        def command(out: Path) -> list[str]:
            start = [sys.executable, "-m", "qsearch", "run", str(QUICKSTART)]
            changed = [part for change in changes for part in ("--set", change)]
            return [*start, "--out", str(out), *changed]

        subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL)
        moments = draw_moments(whole, np.random.default_rng(0), KILLS)
        found = kill_at(moments, command(killed), killed, os.environ)
        for kill in found:
            benchmark.row(
                fault="kill -9",
                phase=kill.moment.phase,
                moment_seconds=round(kill.moment.at, 2),
                last_event=kill.last,
                session_seconds=round(kill.seconds, 1),
            )
        subprocess.run(command(killed), check=True, stdout=subprocess.DEVNULL)
        lost = differing_trials(whole, killed)
        benchmark.row(fault="kill -9 of the quickstart", times=len(found), **{"trials lost": lost})
        benchmark.claim("kill -9 that the quickstart survives", len(found), 20, "higher")
        benchmark.claim("trials lost to kill -9 of the quickstart", lost, 0, "lower")
        benchmark.claim("finished work done again after kill -9", done_again(killed), 0, "lower")
