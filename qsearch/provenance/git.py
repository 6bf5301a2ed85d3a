"""The state of the git repositories that a study's code comes from, as far as git tells it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from qsearch.provenance.session import Source

_SECONDS = 10.0
_LOCATIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")
"""Set where a git hook starts the study; they would have git look at the hook's repository."""
# Reading a status may otherwise write the index, start a file monitor and run hooks.
_PASSIVE = (
    "--no-optional-locks",
    *("-c", "core.fsmonitor=false"),
    *("-c", f"core.hooksPath={os.devnull}"),
)


def source_states() -> dict[str, Source]:
    """Return the repository of the working directory, and qsearch's own if it is a checkout.

    Returns:
        By ``working directory`` and ``qsearch``; without those that there are not, or that git
        does not tell of: it may be missing, slow, or refuse a repository of another user.
    """
    package = Path(__file__).parent.parent
    found = {"working directory": source_state(Path.cwd())}
    # An installed package may lie in the repository of the project that installed it.
    if _git(package, "ls-files", "--error-unmatch", "--", "__init__.py") is not None:
        found["qsearch"] = source_state(package)
    return {name: state for name, state in found.items() if state is not None}


def source_state(folder: Path) -> Source | None:
    """Return the state of the repository that holds a folder, or None."""
    settings = _without_filters(folder)
    if settings is None:
        return None
    told = _git(
        folder,
        *settings,
        *("status", "--porcelain=v2", "--branch"),
        # Results and notes that are not tracked change no code.
        *("--untracked-files=no", "--ignore-submodules=dirty"),
    )
    if told is None:
        return None
    lines = told.splitlines()
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = heads.get("branch.oid"), heads.get("branch.head")
    return Source(
        commit=None if commit == "(initial)" else commit,
        branch=None if branch == "(detached)" else branch,
        changed=any(not line.startswith("#") for line in lines),
    )


def _without_filters(folder: Path) -> list[str] | None:
    """Return settings with which git runs no program that a repository has its files go through.

    Filters of the user's own settings stay: where git keeps large files elsewhere, files would
    seem changed without them.

    Returns:
        Arguments; None where git does not tell, or a filter's name cannot be written as one.
    """
    told = _git(folder, "config", "--list", "--null", "--show-scope", "--name-only")
    if told is None:
        return None
    words = told.split("\0")
    scopes = zip(words[::2], words[1::2], strict=False)
    foreign = {name for scope, name in scopes if scope in ("local", "worktree")}
    filters = {name.rpartition(".")[0] for name in foreign if name.startswith("filter.")}
    if any("=" in name for name in filters):
        return None
    return [
        word
        for name in sorted(filters)
        for setting in ("clean=", "process=", "required=false")
        for word in ("-c", f"{name}.{setting}")
    ]


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what a git command writes, or None if it cannot be run or fails."""
    variables = {name: value for name, value in os.environ.items() if name not in _LOCATIONS}
    variables["GIT_NO_LAZY_FETCH"] = "1"  # What a partial clone lacks is asked of a server.
    try:
        done = subprocess.run(
            ["git", *_PASSIVE, "-C", str(folder), *arguments],
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
