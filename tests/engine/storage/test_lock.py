"""One process at a time in a study directory."""

from __future__ import annotations

import errno
import fcntl
import getpass
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from qsearch.errors import InputError, StudyBusyError
from qsearch.storage import lock
from qsearch.storage.directory import prepare_directory
from qsearch.storage.lock import Owner, dead_owner, lock_owner, reading_lock, study_lock
from qsearch.storage.paths import LOCK, OWNER
from tests.engine.fake_study import process_that_holds

HOLD = """
import signal, sys
from pathlib import Path
from qsearch.storage.lock import study_lock
with study_lock(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    prepare_directory(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    with process_that_holds(HOLD, str(directory)) as process:
        yield process


def test_second_process_is_refused_and_told_who_holds_it(
    directory: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(StudyBusyError) as caught, study_lock(directory):
        pass
    assert f"{directory}: this study is being run already, by process {holder.pid} on " in str(
        caught.value
    )
    # Being refused leaves the holder's note as it was.
    owner = lock_owner(directory)
    assert owner is not None
    assert owner.process == holder.pid


def test_a_look_at_the_owner_does_not_refuse_a_run(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 500.0)
    looking = (directory / LOCK).open("w")
    fcntl.flock(looking, fcntl.LOCK_SH)

    def refused_once(*arguments: int) -> None:
        """The look ends when the run has met it."""
        monkeypatch.undo()
        looking.close()
        raise BlockingIOError(errno.EAGAIN, "held")

    monkeypatch.setattr(fcntl, "flock", refused_once)
    with study_lock(directory):
        assert lock_owner(directory) is not None


def test_a_holder_is_known_by_user_host_process_and_start_while_it_holds(directory: Path) -> None:
    assert Owner(user="ana", process=7).describe() == "process 7 on ? since ? (user ana)"
    assert lock_owner(directory) is None
    with study_lock(directory):
        owner = lock_owner(directory)
    assert owner is not None
    expected = getpass.getuser(), socket.gethostname(), os.getpid()
    assert (owner.user, owner.host, owner.process) == expected
    assert datetime.fromisoformat(str(owner.since)).tzinfo == UTC
    assert lock_owner(directory) is None
    assert dead_owner(directory) is None
    assert not (directory / OWNER).exists()


def test_who_died_holding_the_study_is_known_until_it_is_run_again(
    directory: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    assert lock_owner(directory) is None
    with reading_lock(directory):
        pass
    died = dead_owner(directory)
    assert died is not None
    assert died.process == holder.pid
    with study_lock(directory) as before:
        assert before == died
        assert dead_owner(directory) is None
    assert dead_owner(directory) is None


@pytest.mark.parametrize("take", [study_lock, reading_lock])
def test_lock_that_is_a_link_is_refused(
    take: Callable[[Path], AbstractContextManager[object]], directory: Path
) -> None:
    (directory / "precious").write_text("years of work")
    (directory / LOCK).symlink_to(directory / "precious")
    with pytest.raises(InputError, match="lock: is a link"), take(directory):
        pass
    assert (directory / "precious").read_text() == "years of work"


def test_a_note_that_is_a_link_is_replaced(directory: Path) -> None:
    (directory / "precious").write_text("years of work")
    (directory / OWNER).symlink_to(directory / "precious")
    with study_lock(directory):
        assert not (directory / OWNER).is_symlink()
    assert (directory / "precious").read_text() == "years of work"


def test_a_file_system_without_locks_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "the reason")

    monkeypatch.setattr(fcntl, "flock", refuse)
    expected = "cannot be written: the reason; give another --out"
    with pytest.raises(InputError, match=expected), study_lock(directory):
        pass


@pytest.mark.parametrize("note", ["[]", "{", '{"process": "x"}', "[" * 9999])
def test_note_that_makes_no_sense_says_nothing(note: str, directory: Path) -> None:
    (directory / OWNER).write_text(note)
    assert dead_owner(directory) is None
    with study_lock(directory) as before:
        assert before is None


def test_study_that_is_being_read_is_not_run(directory: Path) -> None:
    with reading_lock(directory), reading_lock(directory):
        assert lock_owner(directory) is None
        with pytest.raises(StudyBusyError, match="is being archived"), study_lock(directory):
            pass
    with study_lock(directory):
        pass
