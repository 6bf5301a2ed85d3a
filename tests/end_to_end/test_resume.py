"""A study that is killed, interrupted or run twice, on the real MiniLM."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pandas.testing import assert_frame_equal
from safetensors import safe_open

from benchmarks.operations_kills import done_again
from qsearch.monitoring.events import read_events
from tests.end_to_end.conftest import VARIABLES, command, results, run, small_study
from tests.end_to_end.tiny_study import write_tiny_study
from tests.forking_server import Fork, start_fork


def start_when(arguments: list[str], happened: Callable[[], bool], what: str) -> Fork:
    """Start a study and return once something has happened."""
    process = start_fork(arguments, VARIABLES)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if happened():
            return process
        if process.poll() is not None:
            break
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f"{what} did not come: {process.communicate()}")


def start_until(arguments: list[str], log: Path, event: str, count: int) -> Fork:
    """Start a study and return once its log holds an event so many times, or all is done."""

    def happened() -> bool:
        kinds = [line["event"] for line in read_events(log)]
        return kinds.count(event) >= count

    return start_when(arguments, happened, event)


def test_a_study_killed_in_each_of_its_phases_ends_as_if_it_never_was(
    study: Path, tmp_path: Path
) -> None:
    """By SIGKILL, at the event that begins the phase, or within it."""
    directory = tmp_path / "killed"
    for event, count in (
        ("round started", 1),  # While it trains.
        ("evaluated", 2),  # While it evaluates the set.
        ("evaluated", 6),  # While it searches.
        ("searched", 1),  # While it evaluates candidates.
        ("round finished", 1),  # While it saves.
        ("finished", 1),  # While it writes the report.
    ):
        process = start_until(small_study(directory), directory / "log.jsonl", event, count)
        process.kill()
        process.wait(timeout=60)
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
    process = start_when(arguments, saved.is_file, "a saved step")
    process.kill()
    process.wait(timeout=60)
    with safe_open(saved, framework="pt") as stream:
        done = len(stream.get_tensor("losses"))
    assert 1 <= done < 150
    run(arguments)
    assert_frame_equal(results(directory), results(whole), check_exact=True)


def test_second_process_on_a_directory_is_refused(study: Path, tmp_path: Path) -> None:
    directory = tmp_path / "busy"
    process = start_until(small_study(directory), directory / "log.jsonl", "round started", 1)
    try:
        result = run(small_study(directory), expect=2)
        assert f"process {process.pid}" in result.stderr
        assert f"process {process.pid}" in run(command("status", directory)).stdout
    finally:
        process.kill()
        process.wait(timeout=60)


def test_finished_study_only_reports_again(study: Path) -> None:
    before = results(study)
    assert "report.html" in run(small_study(study)).stdout
    assert_frame_equal(results(study), before, check_exact=True)
