"""A study as one file: written, opened elsewhere, and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner

from qsearch.cli import main as cli
from qsearch.errors import DamagedFileError, InputError, StudyBusyError
from qsearch.sharing import archive as sharing
from qsearch.sharing.archive import MANIFEST, archive_study, restore_archive
from qsearch.storage.lock import study_lock
from qsearch.storage.paths import study_files
from qsearch.storage.study_record import read_study, write_study
from qsearch.study.run import run_spec
from tests.engine.fake_study import FAILING, SMALL, Stop, results, stopping_at, study_spec
from tests.small_disk import small_disk

RANDOM = study_spec(**SMALL, search__propose="random")


@pytest.fixture(scope="module")
def stopped(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, stopped before the candidates of its second round."""
    directory = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stop):
        run_spec(FAILING, directory, observer=stopping_at("evaluating candidates", 2))
    return directory


@pytest.fixture(scope="module")
def archive(stopped: Path) -> Path:
    path = stopped.parent / "study.zip"
    archive_study(stopped, path)
    return path


def test_study_archived_at_any_time_resumes_to_the_uninterrupted_result(tmp_path: Path) -> None:
    """In its second round, while the set is evaluated, then before the first candidate is drawn."""
    run_spec(RANDOM, tmp_path / "whole")
    for place, then, kind, count in (("a", "b", "evaluated", 9), ("b", "c", "searching", 1)):
        with pytest.raises(Stop):
            run_spec(RANDOM, tmp_path / place, observer=stopping_at(kind, count))
        archive_study(tmp_path / place, tmp_path / f"{place}.zip")
        restore_archive(tmp_path / f"{place}.zip", tmp_path / then)
    run_spec(RANDOM, tmp_path / "c")
    assert_frame_equal(results(tmp_path / "c"), results(tmp_path / "whole"), check_exact=True)


def test_what_the_table_lacks_of_a_round_in_work_is_evaluated_again(
    uninterrupted: pd.DataFrame, stopped: Path, tmp_path: Path
) -> None:
    """As a killed process leaves it, which writes the table once a minute."""
    shutil.copytree(stopped, tmp_path / "there")
    record = read_study(stopped)
    first = record.trials[record.trials["round"] == 1]
    write_study(tmp_path / "there", replace(record, trials=first))
    archive_study(tmp_path / "there", tmp_path / "study.zip")
    restore_archive(tmp_path / "study.zip", tmp_path / "here")
    run_spec(FAILING, tmp_path / "here")
    assert_frame_equal(results(tmp_path / "here"), uninterrupted, check_exact=True)


@pytest.mark.postgres
def test_study_moves_from_postgresql_to_sqlite_and_back(
    uninterrupted: pd.DataFrame, postgres_url: str, tmp_path: Path
) -> None:
    url = postgres_url.replace("qsearch@", "qsearch:hunter2@")
    with pytest.raises(Stop):
        run_spec(FAILING, tmp_path / "there", url, stopping_at("evaluated", 9))
    archive_study(tmp_path / "there", tmp_path / "study.zip")
    with zipfile.ZipFile(tmp_path / "study.zip") as written:
        assert all(b"hunter2" not in written.read(name) for name in written.namelist())
    restore_archive(tmp_path / "study.zip", tmp_path / "here")
    with pytest.raises(Stop):
        run_spec(FAILING, tmp_path / "here", observer=stopping_at("evaluating candidates"))
    archive_study(tmp_path / "here", tmp_path / "again.zip")
    restore_archive(tmp_path / "again.zip", tmp_path / "back")
    run_spec(FAILING, tmp_path / "back", url)
    assert not (tmp_path / "back" / "study.db").exists()
    assert_frame_equal(results(tmp_path / "back"), uninterrupted, check_exact=True)


def test_archive_holds_files_of_the_study_with_their_digests(stopped: Path, archive: Path) -> None:
    expected = {name for name, kind in study_files(stopped).items() if kind.archived}
    assert "study.db" not in expected
    with zipfile.ZipFile(archive) as opened:
        digests = json.loads(opened.read(MANIFEST))["files"]
        assert digests.keys() == expected == set(opened.namelist()) - {MANIFEST}
        for name, digest in digests.items():
            content = opened.read(name)
            assert content == (stopped / name).read_bytes()
            assert digest == hashlib.sha256(content).hexdigest()


def test_study_on_a_full_or_read_only_disk_is_archived(stopped: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        shutil.copytree(stopped, disk / "run")
        room = os.statvfs(disk)
        with (disk / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_frsize)
        archive_study(disk / "run", tmp_path / "of-full.zip")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        archive_study(disk / "run", tmp_path / "of-read-only.zip")
    for name in ("of-full", "of-read-only"):
        restore_archive(tmp_path / f"{name}.zip", tmp_path / name)
        assert_frame_equal(results(tmp_path / name), results(stopped), check_exact=True)


def test_restored_files_have_the_rights_that_the_users_mask_leaves(
    archive: Path, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        restore_archive(archive, tmp_path / "run")
    finally:
        os.umask(before)
    for path in (tmp_path / "run", *(tmp_path / "run").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_commands_archive_restore_and_resume(
    stopped: Path, uninterrupted: pd.DataFrame, tmp_path: Path
) -> None:
    def qsearch(*arguments: str | Path) -> Result:
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    wrote = qsearch("archive", stopped, "--to", tmp_path / "study.zip")
    assert (wrote.exit_code, wrote.stdout) == (0, f"wrote {tmp_path / 'study.zip'}\n")
    restored = qsearch("restore", tmp_path / "study.zip", "--to", tmp_path / "copy")
    assert restored.exit_code == 0
    again = restored.stdout.splitlines()[1].partition("to continue: qsearch ")[2].split()
    assert qsearch(*again).exit_code == 0
    assert not (tmp_path / "copy" / "state" / "restored").exists()
    assert_frame_equal(results(tmp_path / "copy"), uninterrupted, check_exact=True)


# What is refused


def test_running_study_is_not_archived(stopped: Path, tmp_path: Path) -> None:
    refused = pytest.raises(StudyBusyError, match=r"is being run, by .*; wait for it$")
    with study_lock(stopped), refused:
        archive_study(stopped, tmp_path / "study.zip")
    assert not (tmp_path / "study.zip").exists()


def test_archive_replaces_no_file_and_needs_a_study(archive: Path, tmp_path: Path) -> None:
    before = archive.read_bytes()
    with pytest.raises(InputError, match="exists; give another file by --to"):
        archive_study(archive.parent / "run", archive)
    assert archive.read_bytes() == before
    with pytest.raises(InputError, match="holds no study"):
        archive_study(tmp_path, tmp_path / "study.zip")


def test_study_without_its_identity_is_not_archived(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    (tmp_path / "run" / "state" / "identity.json").write_text("{}")
    with pytest.raises(DamagedFileError, match=r"identity\.json: damaged"):
        archive_study(tmp_path / "run", tmp_path / "study.zip")
    assert not (tmp_path / "study.zip").exists()


def test_folder_that_holds_files_is_left_as_it_is(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder"):
        restore_archive(archive, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# Hostile archives

Make = Callable[[Path, Path], None]
"""Writes a bad archive, given a good one."""


def with_file(name: str, content: bytes | None, is_signed: bool = True) -> Make:
    """An archive with another content of a file, or without it; signed, its digests are right."""

    def make(archive: Path, bad: Path) -> None:
        with zipfile.ZipFile(archive) as opened:
            files = {member: opened.read(member) for member in opened.namelist()}
        files |= {name: content or b""}
        if content is None:
            del files[name]
        if is_signed:
            del files[MANIFEST]
            digests = {member: hashlib.sha256(file).hexdigest() for member, file in files.items()}
            manifest = {"format": 1, "qsearch": "0", "files": digests}
            files[MANIFEST] = json.dumps(manifest).encode()
        with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as written:
            for member, file in files.items():
                written.writestr(member, file)

    return make


def with_member(name: str, kind: int) -> Make:
    """An archive with one more member, which its manifest does not have."""

    def make(archive: Path, bad: Path) -> None:
        shutil.copy(archive, bad)
        with zipfile.ZipFile(bad, "a") as opened:
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o777) << 16
            opened.writestr(info, "/etc/passwd")

    return make


def with_wrong_size(archive: Path, bad: Path) -> None:
    """An archive whose directory says that a file is shorter than it is."""
    with zipfile.ZipFile(archive) as opened, zipfile.ZipFile(bad, "w") as written:
        for name in opened.namelist():
            written.writestr(name, opened.read(name), zipfile.ZIP_DEFLATED)
        written.getinfo("log.jsonl").file_size -= 9  # The directory is written last, from these.


FOREIGN = ("../evil", "/tmp/evil", "state\\evil", "state/", "state/lock", "study.yaml\n")
HOSTILE: list[tuple[Make, str]] = [
    *((with_file(name, b"evil"), "not a file of a study") for name in FOREIGN),
    (with_member("study.yaml", stat.S_IFREG), "'study.yaml' twice"),
    (with_member("state/candidates-9.json", stat.S_IFLNK), "not a plain file"),
    (with_member("state/candidates-9.json", stat.S_IFREG), "in the archive, but not both"),
    (with_wrong_size, "Bad CRC-32 for file 'log.jsonl'"),
    (with_file("study.yaml", None), "it lacks study.yaml"),
    (with_file("state/identity.json", None), "it lacks state/identity.json"),
    (with_file("log.jsonl", bytes(2**27)), "are unpacked from it"),
    (with_file("study.yaml", b"name: x"), "study.yaml: damaged"),
    (with_file("state/identity.json", b"[]"), "identity.json: damaged"),
    (with_file("log.jsonl", b"", is_signed=False), "'log.jsonl' in it is damaged: its SHA-256"),
    (with_file(MANIFEST, bytes(2**24 + 1), is_signed=False), "its manifest has 16"),
    (lambda archive, bad: bad.touch(), "cannot be restored"),
    (lambda archive, bad: None, "cannot be restored"),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("make", "reason"), HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_of_it_stays(
    make: Make, reason: str, archive: Path, tmp_path: Path
) -> None:
    make(archive, tmp_path / "bad.zip")
    (tmp_path / "target").mkdir()
    with pytest.raises(InputError) as caught:
        restore_archive(tmp_path / "bad.zip", tmp_path / "target" / "run")
    assert reason in str(caught.value)
    assert str(tmp_path / "bad.zip") in str(caught.value)
    assert list((tmp_path / "target").iterdir()) == []


def test_too_many_files_are_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_MAX_FILES", 5)
    with pytest.raises(InputError, match="a study has at most 5"):
        restore_archive(archive, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
