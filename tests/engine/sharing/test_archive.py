"""A study as one file: written, opened elsewhere, and gone on with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner

from qsearch.cli import main as cli
from qsearch.deployment.picking import pick_configuration
from qsearch.errors import InputError, StudyBusyError
from qsearch.experiment.lease import study_lease
from qsearch.experiment.loading import read_experiment
from qsearch.experiment.url import sqlite_url
from qsearch.monitoring.events import Event
from qsearch.sharing import restoring
from qsearch.sharing.archive import EXPERIMENT, MANIFEST, STUDY_FILES, archive_study
from qsearch.sharing.archived_experiment import ArchivedExperiment, archived
from qsearch.sharing.listing import list_database
from qsearch.sharing.restoring import restore_archive
from qsearch.storage.lock import study_lock
from qsearch.storage.study_record import read_study
from qsearch.study.run import run_study
from tests.engine.support import results, study_spec
from tests.small_disk import small_disk

FAULTS = [{"kind": "error", "layer": "block.0.key", "bits": 8}]
SPEC = study_spec(
    task__name="counting",
    trainer__faults=FAULTS,
    search__screening={"factor": 2, "one_in": 2},
    search__candidates=3,
)


class Stop(Exception):  # noqa: N818
    """Ends a study from its observer."""


def stopped_study(directory: Path, url: str | None = None) -> Path:
    """Run the study and stop among the candidates of its second round."""
    searched: list[int] = []

    def stop(event: Event) -> None:
        if event.kind == "searched":
            searched.append(event.round)
        if event.kind == "evaluated" and searched == [0, 1]:
            raise Stop

    with pytest.raises(Stop):
        run_study(SPEC, directory, url, stop)
    return directory


def experiment_in(url: str) -> ArchivedExperiment:
    return archived(read_experiment(url, "fake"))


def sqlite_in(directory: Path) -> str:
    return f"sqlite:///{directory / 'study.db'}"


@pytest.fixture(scope="module")
def whole(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, run without interruption."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    run_study(SPEC, directory)
    return directory


@pytest.fixture(scope="module")
def stopped(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped_study(tmp_path_factory.mktemp("stopped") / "run")


@pytest.fixture(scope="module")
def archive(stopped: Path) -> Path:
    path = stopped.parent / "study.zip"
    archive_study(stopped, path)
    return path


def test_study_of_these_tests_has_trials_of_each_kind(stopped: Path) -> None:
    trials = experiment_in(sqlite_in(stopped)).trials
    assert {trial.status for trial in trials} == {"running", "completed", "failed", "abandoned"}
    assert {trial.initial for trial in trials} == {True, False}
    assert {figure.round for trial in trials for figure in trial.figures} == {0, 1}


def test_restored_study_can_be_read(stopped: Path, archive: Path, tmp_path: Path) -> None:
    assert restore_archive(archive, tmp_path / "run") == "fake"
    assert_frame_equal(results(tmp_path / "run"), results(stopped), check_exact=True)
    there = read_study(tmp_path / "run")
    assert there.rounds == read_study(stopped).rounds
    from qsearch.deployment.budgets import chosen_budget

    budget = chosen_budget(4.0, None, None, None)
    picked = pick_configuration(tmp_path / "run", budget)
    assert picked.figures == pick_configuration(stopped, budget).figures


def test_restored_experiment_is_the_one_that_was_archived(
    stopped: Path, archive: Path, tmp_path: Path
) -> None:
    """Statuses, reasons, arms, times, and data of all rounds."""
    restore_archive(archive, tmp_path / "run")
    assert experiment_in(sqlite_in(tmp_path / "run")) == experiment_in(sqlite_in(stopped))


def test_restored_study_goes_on_to_the_uninterrupted_result(
    whole: Path, archive: Path, tmp_path: Path
) -> None:
    restore_archive(archive, tmp_path / "run")
    run_study(SPEC, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), results(whole), check_exact=True)


@pytest.mark.postgres
def test_study_moves_from_sqlite_to_postgresql_and_goes_on(
    whole: Path, archive: Path, postgres_url: str, tmp_path: Path
) -> None:
    restore_archive(archive, tmp_path / "run", postgres_url)
    assert not (tmp_path / "run" / "study.db").exists()
    assert list_database(postgres_url)[0].directory == str(tmp_path / "run")
    run_study(SPEC, tmp_path / "run", postgres_url)
    assert_frame_equal(results(tmp_path / "run"), results(whole), check_exact=True)


@pytest.mark.postgres
def test_study_moves_from_postgresql_to_sqlite_and_goes_on(
    whole: Path, postgres_url: str, tmp_path: Path
) -> None:
    url = postgres_url.replace("qsearch@", "qsearch:hunter2@")
    directory = stopped_study(tmp_path / "there", url)
    archive_study(directory, tmp_path / "study.zip", url)
    with zipfile.ZipFile(tmp_path / "study.zip") as written:
        assert all(b"hunter2" not in written.read(name) for name in written.namelist())
    restore_archive(tmp_path / "study.zip", tmp_path / "here")
    assert experiment_in(sqlite_in(tmp_path / "here")) == experiment_in(url)
    run_study(SPEC, tmp_path / "here")
    assert_frame_equal(results(tmp_path / "here"), results(whole), check_exact=True)


def test_archive_holds_plain_files_of_the_study_with_their_digests(
    stopped: Path, archive: Path
) -> None:
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        manifest = json.loads(opened.read(MANIFEST))
        assert (manifest["format"], manifest["study"]) == (1, "fake")
        assert set(names) == {MANIFEST, *manifest["files"]}
        for name in set(names) - {MANIFEST}:
            content = opened.read(name)
            assert manifest["files"][name]["size"] == len(content)
            assert manifest["files"][name]["sha256"] == hashlib.sha256(content).hexdigest()
        for name in set(names) - {MANIFEST, EXPERIMENT}:
            assert opened.read(name) == (stopped / name).read_bytes()
    left_out = {path.relative_to(stopped).as_posix() for path in stopped.rglob("*")} - set(names)
    assert left_out <= {"state", "study.db", "state/lock", "state/status.json", "report.html"}


def test_study_on_a_full_or_read_only_disk_is_archived_to_another(
    stopped: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        shutil.copytree(stopped, disk / "run")
        (disk / "run" / "state" / "lock").touch()  # Copies have the note of another file.
        room = os.statvfs(disk)
        with (disk / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, room.f_bavail * room.f_frsize)
        archive_study(disk / "run", tmp_path / "of-full.zip")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        archive_study(disk / "run", tmp_path / "of-read-only.zip")
    for name in ("of-full", "of-read-only"):
        restore_archive(tmp_path / f"{name}.zip", tmp_path / name)
        assert_frame_equal(results(tmp_path / name), results(stopped), check_exact=True)


def test_signs_of_a_url_in_a_directorys_name_mean_nothing(tmp_path: Path) -> None:
    there, here = tmp_path / "what?no", tmp_path / "50% #1?mode=memory"
    stopped_study(there)
    archive_study(there, tmp_path / "study.zip")
    restore_archive(tmp_path / "study.zip", here)
    assert {path.name for path in tmp_path.iterdir()} == {there.name, here.name, "study.zip"}
    assert (there / "study.db").is_file()
    assert experiment_in(sqlite_url(here / "study.db")) == experiment_in(
        sqlite_url(there / "study.db")
    )


def test_restored_files_have_the_rights_that_the_users_mask_leaves(
    archive: Path, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        restore_archive(archive, tmp_path / "run")
    finally:
        os.umask(before)
    run = tmp_path / "run"
    for path in (run, *run.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# What is refused


def test_running_study_is_not_archived(stopped: Path, tmp_path: Path) -> None:
    with (
        study_lock(stopped),
        pytest.raises(StudyBusyError, match=r"is being run, by .*; wait for it$"),
    ):
        archive_study(stopped, tmp_path / "study.zip")
    assert not (tmp_path / "study.zip").exists()


def test_study_that_runs_elsewhere_is_not_archived(stopped: Path, tmp_path: Path) -> None:
    url = sqlite_in(stopped)
    with (
        study_lease(url, "fake", Path("/elsewhere")),
        pytest.raises(StudyBusyError, match="in /elsewhere"),
    ):
        archive_study(stopped, tmp_path / "study.zip", url)


def test_archive_does_not_replace_a_file(stopped: Path, archive: Path) -> None:
    before = archive.read_bytes()
    with pytest.raises(InputError, match="exists; give another file by --to"):
        archive_study(stopped, archive)
    assert archive.read_bytes() == before


def test_damaged_database_of_a_directory_is_named_by_its_file(
    stopped: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(stopped, copy)
    (copy / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(InputError) as caught:
        archive_study(copy, tmp_path / "study.zip")
    assert str(caught.value).startswith(f"{copy / 'study.db'}: cannot be used: ")


def test_folder_without_a_study_is_not_archived(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no study"):
        archive_study(tmp_path, tmp_path / "study.zip")


def test_study_is_not_archived_with_another_studys_database(
    stopped: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="belongs to another study directory"):
        archive_study(stopped, tmp_path / "study.zip", sqlite_in(whole))
    with pytest.raises(InputError, match="there is no file"):
        archive_study(stopped, tmp_path / "study.zip", f"sqlite:///{tmp_path / 'none.db'}")


def test_folder_that_holds_files_is_left_as_it_is(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder"):
        restore_archive(archive, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_database_that_has_a_study_of_that_name_is_left_as_it_is(
    whole: Path, archive: Path, tmp_path: Path
) -> None:
    before = experiment_in(sqlite_in(whole))
    with pytest.raises(InputError, match="holds a study 'fake' already; give another database"):
        restore_archive(archive, tmp_path / "run", sqlite_in(whole))
    assert experiment_in(sqlite_in(whole)) == before
    assert list(tmp_path.iterdir()) == []


def test_restoring_that_fails_at_its_end_leaves_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is in place when its database refuses the commit."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    save = restoring.save_experiment

    def save_and_fail_later(*arguments: Any, **named: Any) -> None:
        save(*arguments, **named)
        original = Path.replace

        def replace(path: Path, target: Path) -> Path:
            original(path, target)
            raise OSError("no more")

        monkeypatch.setattr(Path, "replace", replace)

    monkeypatch.setattr(restoring, "save_experiment", save_and_fail_later)
    with pytest.raises(InputError, match="no more"):
        restore_archive(archive, tmp_path / "inner" / "run", url)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["shared.db"]
    assert list_database(url) == []
    restore_archive(archive, tmp_path / "inner" / "run", url)
    assert [study.name for study in list_database(url)] == ["fake"]


# Hostile archives


def rewritten(archive: Path, to: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write an archive anew with other contents, whose digests are right."""
    with zipfile.ZipFile(archive) as opened:
        contents = {name: opened.read(name) for name in opened.namelist()}
    del contents[MANIFEST]
    change(contents)
    files = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    manifest = {"format": 1, "qsearch": "0", "study": "fake", "files": files}
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in {MANIFEST: json.dumps(manifest).encode(), **contents}.items():
            written.writestr(name, content)
    return to


@pytest.fixture
def refuse(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Require that an archive is refused and nothing of it stays anywhere."""
    target = tmp_path / "target"
    target.mkdir()

    def check(bad: Path, reason: str) -> None:
        with pytest.raises(InputError) as caught:
            restore_archive(bad, target / "run")
        assert reason in str(caught.value)
        assert str(bad) in str(caught.value)

    yield check
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/tmp/evil",
        "state/../../evil",
        "state\\evil.json",
        "C:evil",
        "state/",
        "state/evil",
        "state/lock",
        "state/adapter-1.pt",
        "report.html",
        "study.db",
        "STUDY.yaml",
        "State/study.json",
        "state/deep/study.json",
        "state/study.json ",
        "state/stüdy.json",
        "study.yaml\n",
    ],
)
def test_names_that_are_no_studys_are_refused(
    name: str, archive: Path, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    assert not STUDY_FILES.fullmatch(name)
    bad = rewritten(archive, tmp_path / "bad.zip", lambda files: files.update({name: b"evil"}))
    refuse(bad, "no file of a study")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_comes_twice_is_refused(
    archive: Path, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    bad = rewritten(archive, tmp_path / "bad.zip", lambda files: None)
    with zipfile.ZipFile(bad, "a") as opened:
        opened.writestr("study.yaml", b"another")
    refuse(bad, "'study.yaml' twice")


def test_symbolic_link_is_refused(
    archive: Path, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    bad = rewritten(archive, tmp_path / "bad.zip", lambda files: None)
    with zipfile.ZipFile(bad, "a") as opened:
        info = zipfile.ZipInfo("state/probes-0.safetensors")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(info, "/etc/passwd")
    refuse(bad, "not a plain file")


def test_file_that_the_manifest_does_not_tell_is_refused(
    archive: Path, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    bad = rewritten(archive, tmp_path / "bad.zip", lambda files: None)
    with zipfile.ZipFile(bad, "a") as opened:
        opened.writestr("state/probes-0.safetensors", b"more")
    refuse(bad, "'state/probes-0.safetensors' is in its manifest or in the archive, but not in")


@pytest.mark.parametrize("name", ["study.yaml", "state/identity.json", EXPERIMENT])
def test_archive_without_what_every_study_has_is_refused(
    name: str, archive: Path, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    bad = rewritten(archive, tmp_path / "bad.zip", lambda files: files.pop(name) and None)
    refuse(bad, f"it lacks {name}")


def test_bomb_is_refused_before_it_is_unpacked(
    archive: Path, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    bad = rewritten(
        archive, tmp_path / "bad.zip", lambda files: files.update({"log.jsonl": bytes(2**27)})
    )
    assert bad.stat().st_size < 2**18
    refuse(bad, "are unpacked from it")


def test_too_many_files_are_refused(
    archive: Path, tmp_path: Path, refuse: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "_MOST_MEMBERS", 5)
    refuse(archive, "a study has at most 5")


def with_more_in(archive: Path, to: Path, member: str, more: bytes) -> Path:
    """Write an archive with more in one of its members than before, and return it."""
    with zipfile.ZipFile(archive) as opened, zipfile.ZipFile(to, "w") as written:
        for name in opened.namelist():
            end = more if name == member else b""
            written.writestr(name, opened.read(name) + end, zipfile.ZIP_DEFLATED)
    return to


def test_file_of_another_size_than_the_manifest_tells_is_refused(
    archive: Path, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    bad = with_more_in(archive, tmp_path / "bad.zip", "log.jsonl", b"more")
    refuse(bad, "'log.jsonl' in it has another size than the manifest tells")


def with_more_in_a_file_than_told(archive: Path, to: Path, crc: bool) -> bytes:
    """Write an archive whose directory and manifest tell of the log's first bytes alone.

    Args:
        archive: The archive.
        to: The file to write.
        crc: Whether the zip's checksum is that of these bytes, too.

    Returns:
        These bytes.
    """
    with zipfile.ZipFile(archive) as opened, zipfile.ZipFile(to, "w") as written:
        contents = {name: opened.read(name) for name in opened.namelist()}
        told = contents["log.jsonl"][:-9]
        manifest = json.loads(contents[MANIFEST])
        digest = hashlib.sha256(told).hexdigest()
        manifest["files"]["log.jsonl"] = {"size": len(told), "sha256": digest}
        for name, content in (contents | {MANIFEST: json.dumps(manifest).encode()}).items():
            written.writestr(name, content, zipfile.ZIP_DEFLATED)
        # The directory is written last, from these.
        info = written.getinfo("log.jsonl")
        info.file_size = len(told)
        info.CRC = zlib.crc32(told) if crc else info.CRC
    return told


def test_file_with_more_than_directory_and_manifest_tell_is_refused(
    archive: Path, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    with_more_in_a_file_than_told(archive, tmp_path / "bad.zip", crc=False)
    refuse(tmp_path / "bad.zip", "Bad CRC-32 for file 'log.jsonl'")


def test_no_more_of_a_file_is_unpacked_than_directory_and_manifest_tell(
    archive: Path, tmp_path: Path
) -> None:
    told = with_more_in_a_file_than_told(archive, tmp_path / "more.zip", crc=True)
    restore_archive(tmp_path / "more.zip", tmp_path / "run")
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == told


def test_manifest_that_is_too_large_is_not_read(
    archive: Path, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    bad = with_more_in(archive, tmp_path / "bad.zip", MANIFEST, b" " * 2**24)
    refuse(bad, "'manifest.json' in it has 16")


def test_flipped_byte_is_found(archive: Path, tmp_path: Path, refuse: Callable[..., None]) -> None:
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo("state/adapter-1.safetensors")
    raw = bytearray(archive.read_bytes())
    raw[info.header_offset + 200] ^= 1
    (tmp_path / "bad.zip").write_bytes(raw)
    refuse(tmp_path / "bad.zip", "state/adapter-1.safetensors")


def test_other_content_of_the_same_size_is_found(
    archive: Path, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    """With the zip's own checksum right, the manifest's digest tells."""
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive) as opened, zipfile.ZipFile(bad, "w") as written:
        for name in opened.namelist():
            content = opened.read(name)
            swapped = content[::-1] if name == "state/adapter-1.safetensors" else content
            written.writestr(name, swapped)
    refuse(bad, "'state/adapter-1.safetensors' in it is damaged: its digest differs")


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip file, but some text", bytes(1000)])
def test_what_is_no_zip_file_is_refused(
    content: bytes, tmp_path: Path, refuse: Callable[..., None]
) -> None:
    (tmp_path / "bad.zip").write_bytes(content)
    refuse(tmp_path / "bad.zip", "cannot be restored")


def test_missing_archive_is_refused(tmp_path: Path, refuse: Callable[..., None]) -> None:
    refuse(tmp_path / "none.zip", "No such file")


def change_experiment(**fields: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files[EXPERIMENT] = json.dumps({**json.loads(files[EXPERIMENT]), **fields}).encode()

    return change


def drop_figures(metric: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        kept = json.loads(files[EXPERIMENT])
        for trial in kept["trials"]:
            trial["figures"] = [one for one in trial["figures"] if one["metric"] != metric]
        files[EXPERIMENT] = json.dumps(kept).encode()

    return change


def change_trial(**fields: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        kept = json.loads(files[EXPERIMENT])
        kept["trials"][0].update(fields)
        files[EXPERIMENT] = json.dumps(kept).encode()

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_experiment(name="other"), "are of the studies"),
        (change_experiment(description="qsearch study x"), "belongs to another study's directory"),
        (change_experiment(metric="loss"), "the metric is called 'loss'"),
        (change_experiment(metric=None), "figures of unknown metrics"),
        (change_experiment(parameters=[]), "parameters"),
        (change_experiment(objective="__import__('os').system('id')"), "objective"),
        (change_experiment(created="yesterday"), "created"),
        (change_experiment(created="0001-01-01T00:00:00+14:00"), "cannot be restored"),
        (drop_figures("seconds"), "trial 0 lacks figures of round 1"),
        (drop_figures("loss"), "trial 0 lacks figures of round 1"),
        (change_trial(values=[]), "trial 0 is outside of the search space"),
        (change_trial(values=[99] * 16), "trial 0 is outside of the search space"),
        (change_trial(status="failed"), "a failed trial"),
        (change_trial(status="staged"), "status"),
        (change_trial(arm="uniform-1"), "trials share an arm's name"),
        (change_trial(arm="x" * 1000), "arm"),
        (
            change_trial(figures=[{"round": 0, "metric": "loss", "mean": "1", "sem": None}]),
            "figures.0.mean",
        ),
        (lambda files: files.update({EXPERIMENT: b"[" * 10**6}), "experiment.json in it"),
        (lambda files: files.update({EXPERIMENT: b"\xff\xfe"}), "experiment.json in it"),
        (lambda files: files.update({"study.yaml": b"name: [" * 1000}), "study.yaml"),
        (lambda files: files.update({"state/identity.json": b"[]"}), "identity.json"),
    ],
)
def test_experiment_that_no_study_has_is_refused(
    change: Callable[[dict[str, bytes]], None],
    reason: str,
    archive: Path,
    tmp_path: Path,
    refuse: Callable[..., None],
) -> None:
    refuse(rewritten(archive, tmp_path / "bad.zip", change), reason)


def test_commands_archive_and_restore(stopped: Path, whole: Path, tmp_path: Path) -> None:
    def qsearch(*arguments: str | Path) -> Result:
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    wrote = qsearch("archive", stopped, "--to", tmp_path / "study.zip")
    assert (wrote.exit_code, wrote.stdout) == (0, f"wrote {tmp_path / 'study.zip'}\n")
    restored = qsearch("restore", tmp_path / "study.zip", "--to", tmp_path / "copy")
    assert restored.exit_code == 0
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o755
    again = restored.stdout.splitlines()[1].partition("to continue: qsearch ")[2].split()
    assert qsearch(*again).exit_code == 0
    assert_frame_equal(results(tmp_path / "copy"), results(whole), check_exact=True)
    twice = qsearch("restore", tmp_path / "study.zip", "--to", tmp_path / "copy")
    assert isinstance(twice.exception, InputError)
