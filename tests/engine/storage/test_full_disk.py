"""Disks that fill up at any write: one message, nothing lost, and the same results once there is
room."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.cli import main as cli
from qsearch.study.run import run_spec
from tests.engine.fake_study import (
    FAILING,
    FAULTS,
    SMALL,
    command_here,
    in_child,
    results,
    write_study_yaml,
)
from tests.small_disk import small_disk

# Room in KiB, from none to little. A study of this size takes about 400, its report 5,000.
TOO_SMALL = [0, 52, 196]
CHANGES = {**SMALL, "trainer__faults": FAULTS}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with much room."""
    with small_disk(tmp_path / "disk", "64m") as folder:
        yield folder


def leave(disk: Path, kilobytes: int) -> None:
    """Make room for so much more, or for all that is needed if negative."""
    (disk / "filler").unlink(missing_ok=True)
    if kilobytes >= 0:
        room = os.statvfs(disk)
        free = room.f_bavail * room.f_frsize
        with (disk / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, max(free - 1024 * kilobytes, 1))


def run_command(directory: Path, folder: Path) -> tuple[int, str]:
    """Run the study's command in another process; return its exit code and what it said."""
    said, study = folder / "said", write_study_yaml(folder / "study.yaml", **CHANGES)

    def run() -> None:
        sys.argv = ["qsearch", "run", str(study), "--out", str(directory)]
        code = 0
        with (
            said.open("w", encoding="utf-8") as stream,
            contextlib.redirect_stdout(stream),
            contextlib.redirect_stderr(stream),
        ):
            try:
                cli.main()
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
                code = 99
        os._exit(code)

    return in_child(run), said.read_text()


@pytest.mark.parametrize("kilobytes", TOO_SMALL)
def test_a_disk_that_is_full_at_any_point_is_reported_and_survived(
    kilobytes: int, disk: Path, uninterrupted: pd.DataFrame, tmp_path: Path
) -> None:
    directory = disk / "run"
    leave(disk, kilobytes)
    code, said = run_command(directory, tmp_path)
    assert code == 1
    (error,) = [line for line in said.splitlines() if line.startswith("qsearch: ")]
    assert str(directory) in error
    assert "No space left" in error or "is full" in error
    assert "Traceback" not in said
    leave(disk, -1)
    assert in_child(partial(run_spec, FAILING, directory)) == 0
    assert_frame_equal(results(directory), uninterrupted, check_exact=True)
    assert [path.name for path in directory.rglob(".*")] == []


def test_a_disk_too_full_for_the_report_loses_nothing(
    disk: Path, uninterrupted: pd.DataFrame, tmp_path: Path
) -> None:
    directory = disk / "run"
    leave(disk, 1500)
    code, text = run_command(directory, tmp_path)
    assert code == 1
    assert "finished: search.rounds: 2 reached" in text
    assert "report.html: cannot be written" in text
    assert "the study is finished and saved" in text
    assert "Traceback" not in text
    assert_frame_equal(results(directory), uninterrupted, check_exact=True)
    assert not (directory / "report.html").exists()
    leave(disk, -1)
    assert command_here("report", directory).code == 0
    assert (directory / "report.html").is_file()


def test_a_log_that_cannot_be_written_is_the_message_and_costs_no_result(
    uninterrupted: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "run" / "log.jsonl").mkdir(parents=True)
    code, said = run_command(tmp_path / "run", tmp_path)
    assert code == 2
    assert "log.jsonl: is not a regular file; remove it" in said
    assert "Traceback" not in said
    (tmp_path / "run" / "log.jsonl").rmdir()
    assert in_child(partial(run_spec, FAILING, tmp_path / "run")) == 0
    assert_frame_equal(results(tmp_path / "run"), uninterrupted, check_exact=True)
