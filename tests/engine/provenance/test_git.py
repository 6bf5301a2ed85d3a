"""The state of git repositories, with real ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from qsearch.provenance.git import source_state, source_states
from qsearch.provenance.session import Source


def git(folder: Path, *arguments: str) -> str:
    names = ("user.name=A", "user.email=a@example.org", "init.defaultBranch=main")
    settings = [part for name in names for part in ("-c", name)]
    done = subprocess.run(
        ["git", "-C", folder, *settings, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init")
    (folder / "code.py").write_text("one\n")
    git(folder, "add", "code.py")
    git(folder, "commit", "-m", "first")
    return folder


def state_of(folder: Path) -> Source:
    state = source_state(folder)
    assert state is not None
    return state


def test_commit_and_branch_are_those_checked_out(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert state_of(repository) == Source(head, "main", changed=False)
    git(repository, "checkout", "--detach")
    assert state_of(repository) == Source(head, None, changed=False)


def test_before_the_first_commit_there_is_none(tmp_path: Path) -> None:
    assert source_state(tmp_path) is None
    git(tmp_path, "init")
    assert state_of(tmp_path).commit is None


@pytest.mark.parametrize("staged", [True, False])
def test_a_tracked_file_that_differs_is_a_change(repository: Path, staged: bool) -> None:
    (repository / "code.py").write_text("two\n")
    if staged:
        git(repository, "add", "code.py")
    assert state_of(repository).changed


def test_files_that_are_not_tracked_are_no_change(repository: Path) -> None:
    (repository / "results").write_text("here\n")
    assert not state_of(repository).changed


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("git", 10), FileNotFoundError("git")])
def test_without_git_or_with_a_slow_one_there_is_no_state(
    error: Exception, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    assert source_state(repository) is None
    assert source_states() == {}


def test_a_repository_of_another_user_has_no_state(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "true")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    assert source_state(repository) is None


def test_no_hook_or_file_monitor_of_the_repository_is_run(repository: Path, tmp_path: Path) -> None:
    """Neither hooks nor a file monitor, which a status starts if the index must be written."""
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho x >> {ran}\n")
    program.chmod(0o755)
    (repository / ".git" / "hooks" / "post-index-change").symlink_to(program)
    git(repository, "config", "core.fsmonitor", str(program))
    os.utime(repository / "code.py", (1, 1))
    assert source_state(repository) is not None
    assert not ran.exists()
    git(repository, "status")
    assert ran.exists(), "the programs would run if they were let"


def test_a_hook_that_starts_a_study_does_not_lead_git_astray(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert source_state(repository) is not None


def test_both_repositories_are_told(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    found = source_states()
    assert found["working directory"] == source_state(repository)
    own = source_state(Path(__file__).parent)
    assert found.get("qsearch") == own


def test_an_installed_qsearch_is_no_checkout_of_the_project_around_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = repository / "lib" / "qsearch"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.chdir(repository)
    monkeypatch.setattr("qsearch.provenance.git.__file__", str(package / "provenance" / "git.py"))
    assert set(source_states()) == {"working directory"}
