"""One process at a time in a study directory."""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from qsearch.errors import InputError, StudyBusyError
from qsearch.storage.lock import dead_owner, lock_owner, reading_lock, study_lock
from qsearch.storage.owner import STALE_SECONDS, Owner, this_process
from qsearch.storage.paths import LOCK
from tests.engine.support import in_child, process_that_holds

HOLD = """
import sys, time
from pathlib import Path
from qsearch.storage.lock import study_lock
with study_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path


@pytest.fixture
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    with process_that_holds(HOLD, str(directory)) as process:
        yield process


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
    assert owner.process == holder.pid


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
        assert owner.process == os.getppid()

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
    owner = Owner(process=7, host="here", since="noon")
    assert owner.describe() == "process 7 on here since noon"
    assert Owner(user="ana", process=7).describe() == "process 7 on ? since ? (user ana)"


def test_holder_leaves_its_user_host_process_and_start(directory: Path) -> None:
    with study_lock(directory):
        note = json.loads((directory / LOCK).read_text())
    assert note["user"] == getpass.getuser()
    assert note["host"] == socket.gethostname()
    assert note["process"] == os.getpid()
    assert datetime.fromisoformat(note["since"]) <= datetime.now(UTC)


def test_who_died_holding_the_study_is_known_until_it_is_run_again(
    directory: Path, holder: subprocess.Popen[str]
) -> None:
    assert dead_owner(directory) is None
    holder.kill()
    holder.wait()
    died = dead_owner(directory)
    assert died is not None
    assert died.process == holder.pid
    with study_lock(directory) as before:
        assert before == died
        assert dead_owner(directory) is None
    assert dead_owner(directory) is None


@pytest.mark.parametrize("lock", [study_lock, reading_lock])
def test_lock_that_is_a_link_is_refused(
    lock: Callable[[Path], AbstractContextManager[object]], directory: Path
) -> None:
    (directory / "precious").write_text("years of work")
    (directory / LOCK).symlink_to(directory / "precious")
    with pytest.raises(InputError, match="lock: is a link"), lock(directory):
        pass
    assert (directory / "precious").read_text() == "years of work"


# Whoever reads all of a study


def test_study_that_is_being_read_is_not_run(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsearch.storage.lock._PATIENCE_SECONDS", 0.0)
    with (
        reading_lock(directory),
        pytest.raises(StudyBusyError, match="is being archived"),
        study_lock(directory),
    ):
        pass
    with study_lock(directory):
        pass


def test_several_may_read_a_study(directory: Path) -> None:
    with reading_lock(directory), reading_lock(directory):
        assert lock_owner(directory) is None


def test_study_that_is_run_is_not_read(
    directory: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsearch.storage.lock._PATIENCE_SECONDS", 0.0)
    expected = f"is being run, by process {holder.pid}"
    with pytest.raises(StudyBusyError, match=expected), reading_lock(directory):
        pass


def test_reading_leaves_the_note_of_who_died(
    directory: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    before = dead_owner(directory)
    assert before is not None
    with reading_lock(directory):
        assert dead_owner(directory) == before
    assert dead_owner(directory) == before


# Where the system's lock is not shared between hosts, or does not exist


def leave_note(directory: Path, owner: Owner, seconds_ago: float = 0.0) -> None:
    """Write the lock's note as its owner would have left it, silent for some time."""
    path = directory / LOCK
    path.touch()
    path.write_text(json.dumps({**owner.note(), "file": path.stat().st_ino}))
    then = time.time() - seconds_ago
    os.utime(path, (then, then))


FOREIGN = replace(this_process(), host="other", kernel="another kernel", process=1)


@pytest.fixture
def no_system_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, as Lustre is unless it is told otherwise."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_owner_on_another_host_that_was_heard_of_lately_lives(directory: Path) -> None:
    leave_note(directory, FOREIGN, seconds_ago=STALE_SECONDS / 2)
    assert lock_owner(directory) == FOREIGN
    assert dead_owner(directory) is None
    with pytest.raises(StudyBusyError, match="process 1 on other"), study_lock(directory):
        pass
    assert lock_owner(directory) == FOREIGN


def test_owner_on_another_host_that_is_silent_is_dead(directory: Path) -> None:
    leave_note(directory, FOREIGN, seconds_ago=STALE_SECONDS + 60)
    assert lock_owner(directory) is None
    assert dead_owner(directory) == FOREIGN
    with study_lock(directory) as before:
        assert before == FOREIGN


def test_owner_on_this_host_before_it_was_started_again_is_dead(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsearch.storage.owner._uptime", lambda: 60.0)
    before = replace(this_process(), kernel="the one before")
    leave_note(directory, before, seconds_ago=70)
    assert dead_owner(directory) == before
    with study_lock(directory) as died:
        assert died == before


def test_owner_on_another_host_of_this_name_is_heard_of_since_this_one_was_started(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsearch.storage.owner._uptime", lambda: 60.0)
    namesake = replace(this_process(), kernel="another kernel")
    leave_note(directory, namesake, seconds_ago=50)
    assert lock_owner(directory) == namesake


def test_note_that_was_copied_with_its_directory_tells_of_nobody(
    directory: Path, tmp_path: Path
) -> None:
    leave_note(directory, FOREIGN)
    (tmp_path / "copy" / "state").mkdir(parents=True)
    shutil.copy2(directory / LOCK, tmp_path / "copy" / LOCK)
    assert lock_owner(tmp_path / "copy") is None
    assert dead_owner(tmp_path / "copy") is None


def test_free_system_lock_outweighs_a_note_of_the_same_kernel(directory: Path) -> None:
    """As of a container that was killed: its process cannot be seen, but its lock is gone."""
    gone = replace(this_process(), host="container", processes="its own")
    leave_note(directory, gone)
    assert lock_owner(directory) is None
    with study_lock(directory) as before:
        assert before == gone


@pytest.mark.usefixtures("no_system_locks")
def test_without_system_locks_a_living_process_holds_the_study(directory: Path) -> None:
    with study_lock(directory):
        owner = lock_owner(directory)
        assert owner is not None
        assert owner.process == os.getpid()
        with pytest.raises(StudyBusyError), study_lock(directory):
            pass
    with study_lock(directory):
        pass


@pytest.mark.usefixtures("no_system_locks")
def test_without_system_locks_a_study_that_is_being_read_is_not_run(directory: Path) -> None:
    with reading_lock(directory), pytest.raises(StudyBusyError), study_lock(directory):
        pass
    assert lock_owner(directory) is None


def test_study_that_runs_on_another_host_is_not_read(directory: Path) -> None:
    leave_note(directory, FOREIGN, seconds_ago=STALE_SECONDS / 2)
    with pytest.raises(StudyBusyError, match="process 1 on other"), reading_lock(directory):
        pass


@pytest.mark.usefixtures("no_system_locks")
def test_without_system_locks_a_process_that_ended_frees_the_study(directory: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    leave_note(directory, replace(this_process(), process=ended.pid))
    assert lock_owner(directory) is None
    with study_lock(directory):
        pass


@pytest.mark.usefixtures("no_system_locks")
def test_another_process_of_the_same_number_is_not_the_owner(directory: Path) -> None:
    me = this_process()
    assert me.started is not None
    leave_note(directory, replace(me, started=me.started - 1000))
    assert lock_owner(directory) is None


def test_holder_is_heard_of_while_it_holds(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsearch.storage.lock.BEAT_SECONDS", 0.01)
    with study_lock(directory):
        os.utime(directory / LOCK, (0, 0))
        deadline = time.monotonic() + 30
        while (directory / LOCK).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("note", ["[]", "{}", '{"process": "x", "host": 3}', "null", "7"])
def test_note_that_makes_no_sense_tells_of_nobody(note: str, directory: Path) -> None:
    (directory / LOCK).write_text(note)
    assert lock_owner(directory) is None
    assert dead_owner(directory) is None
    with study_lock(directory) as before:
        assert before is None
