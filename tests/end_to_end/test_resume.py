"""A study that is killed, on the real MiniLM."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pandas.testing import assert_frame_equal
from safetensors import safe_open

from benchmarks.operations_kills import done_again
from qsearch.monitoring.events import read_events
from tests.end_to_end.conftest import VARIABLES, command, run, small_study
from tests.end_to_end.tiny_study import write_tiny_study
from tests.engine.support import results
from tests.forking_server import start_fork


def kill_when(arguments: list[str], happened: Callable[[], bool]) -> None:
    """Start a study, and kill it once something has happened."""
    process = start_fork(arguments, VARIABLES)
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait(timeout=60)


def has_logged(log: Path, event: str, count: int) -> bool:
    return [line["event"] for line in read_events(log)].count(event) >= count


def test_a_killed_study_ends_as_if_it_never_was(study: Path, tmp_path: Path) -> None:
    """By SIGKILL, at the event that begins the phase, or within it."""
    directory = tmp_path / "killed"
    for event, count in (
        ("round started", 1),  # While it trains.
        ("evaluated", 6),  # While it searches.
        ("round finished", 1),  # While it saves.
        ("finished", 1),  # While it writes the report.
    ):
        happened = partial(has_logged, directory / "log.jsonl", event, count)
        kill_when(small_study(directory), happened)
    run(small_study(directory))
    assert_frame_equal(results(directory), results(study), check_exact=True)
    assert done_again(directory) == 0
    assert (directory / "report.html").is_file()
    assert [path.name for path in directory.rglob(".*")] == []


def test_a_study_killed_between_two_saved_steps_resumes_from_the_last(tmp_path: Path) -> None:
    """Of a small model, whose steps take so little that there are many of them."""
    path = write_tiny_study(tmp_path, "normal-float", (2.3, 4.3))
    options = [path, "--set", "trainer.first_steps=150", "--set", "search.rounds=1"]
    whole, directory = tmp_path / "whole", tmp_path / "killed"
    run(command("run", *options, "--out", whole))
    arguments = command("run", *options, "--out", directory, "--set", "trainer.checkpoint_steps=1")
    saved = directory / "state" / "training-1.safetensors"
    kill_when(arguments, saved.is_file)
    with safe_open(saved, framework="pt") as stream:
        done = len(stream.get_tensor("losses"))
    assert 1 <= done < 150
    run(arguments)
    assert_frame_equal(results(directory), results(whole), check_exact=True)
