"""One process at a time in a study directory."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qsearch.errors import InputError, StudyBusyError
from qsearch.lock import LOCK, describe_owner, lock_owner, study_lock
from tests.engine.support import command_environment, in_child

HOLD = """
import sys, time
from pathlib import Path
from qsearch.lock import study_lock
with study_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path


@pytest.fixture
def holder(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env=command_environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_second_process_is_refused_and_told_who_holds_it(
    directory: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(StudyBusyError) as caught, study_lock(directory):
        pass
    assert f"process {holder.pid} on " in str(caught.value)
    assert str(directory) in str(caught.value)
    assert isinstance(caught.value, InputError)
    # Being refused leaves the holder's note as it was.
    owner = lock_owner(directory)
    assert owner is not None
    assert owner["process"] == holder.pid


def test_a_look_at_the_owner_does_not_refuse_a_run(directory: Path) -> None:
    with (directory / LOCK).open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN))
        timer.start()
        with study_lock(directory):
            assert lock_owner(directory) is not None
        timer.join()


def test_killed_holder_frees_the_study(directory: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert lock_owner(directory) is None
    with study_lock(directory):
        pass


def test_holder_is_known_only_while_it_holds(directory: Path) -> None:
    assert lock_owner(directory) is None

    def look_from_outside() -> None:
        owner = lock_owner(directory)
        assert owner is not None
        assert owner["process"] == os.getppid()

    with study_lock(directory):
        assert in_child(look_from_outside) == 0
    assert lock_owner(directory) is None


def test_an_exception_frees_the_study(directory: Path) -> None:
    with pytest.raises(ValueError, match="inside"), study_lock(directory):
        raise ValueError("inside")
    with study_lock(directory):
        pass


def test_lock_file_of_a_dead_process_tells_of_nobody(directory: Path) -> None:
    (directory / LOCK).write_text("half a li")
    assert lock_owner(directory) is None


def test_owner_in_words() -> None:
    owner = {"process": 7, "host": "here", "since": "noon"}
    assert describe_owner(owner) == "process 7 on here since noon"
    assert describe_owner({}) == "process ? on ? since ?"
