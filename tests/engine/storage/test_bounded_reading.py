"""Reading of files of others: what is no file is refused, and none is waited for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qsearch.errors import DamagedFileError
from qsearch.monitoring.status import study_status
from qsearch.storage.bounded_reading import read_last_lines, read_parquet, read_text
from qsearch.storage.study_record import read_study

# Who opens a pipe waits for ever for somebody to write, and pyarrow minds no signal meanwhile.
pytestmark = pytest.mark.timeout(300, method="thread")

READERS = [read_text, read_last_lines, read_parquet]


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_and_a_link_to_a_pipe_or_a_device_are_refused(
    read: Callable[[Path, int], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "device").symlink_to(os.devnull)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(OSError, match="not a regular file"):
            read(path, 100)


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("é")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_text(tmp_path / "link", 2) == "é"


def with_pipe(finished: Path, directory: Path, name: str) -> Path:
    shutil.copytree(finished, directory)
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    return directory


@pytest.mark.parametrize(
    "name",
    ["study.yaml", "log.jsonl", "state/clock.json", "state/status.json", "state/lock"],
)
def test_a_study_with_a_pipe_among_its_files_has_a_status(
    name: str, finished: Path, tmp_path: Path
) -> None:
    directory = with_pipe(finished, tmp_path / "study", name)
    assert study_status(directory).rounds_finished == 2


@pytest.mark.parametrize("name", ["state/study.json", "trials.parquet"])
def test_a_pipe_among_the_results_of_a_study_is_damage(
    name: str, finished: Path, tmp_path: Path
) -> None:
    directory = with_pipe(finished, tmp_path / "study", name)
    with pytest.raises(DamagedFileError, match=f"{name}: damaged: it is not a regular file"):
        read_study(directory)
