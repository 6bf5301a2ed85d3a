"""The state of the git repositories that a study's code comes from, as far as git says.

A repository's own filters may run, as they do in any ``git status`` of its user; its hooks and
file monitor do not.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from qsearch.provenance.session import Source

_SECONDS = 10.0
_PASSIVE = ("--no-optional-locks", "-c", "core.fsmonitor=", "-c", f"core.hooksPath={os.devnull}")
_LOCATIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")
"""Set where a git hook starts the study; they would have git look at the hook's repository."""


def source_states() -> dict[str, Source]:
    """Return the repository of the working directory, and qsearch's own if it is a checkout.

    One that does not exist, or whose state git does not give, is left out: git may be missing,
    slow, or refuse a repository of another user.
    """
    package = Path(__file__).parent.parent
    states = {"working directory": source_state(Path.cwd())}
    # An installed package may lie in the repository of the project that installed it.
    if _git(package, "ls-files", "--error-unmatch", "--", "__init__.py") is not None:
        states["qsearch"] = source_state(package)
    return {name: state for name, state in states.items() if state is not None}


def source_state(folder: Path) -> Source | None:
    """Return the state of the repository that holds a folder, or None."""
    # Results and notes that are not tracked change no code.
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    if status is None:
        return None
    lines = status.splitlines()
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = heads.get("branch.oid"), heads.get("branch.head")
    return Source(
        commit=None if commit == "(initial)" else commit,
        branch=None if branch == "(detached)" else branch,
        changed=any(not line.startswith("#") for line in lines),
    )


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what a git command writes, or None if it cannot be run or fails."""
    try:
        done = subprocess.run(
            ["git", *_PASSIVE, "-C", str(folder), *arguments],
            env={name: value for name, value in os.environ.items() if name not in _LOCATIONS},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
