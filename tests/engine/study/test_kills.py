"""Studies whose process dies at any file moved into place and any commit, and that resume."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from sqlalchemy.engine.default import DefaultDialect

from qsearch.errors import QsearchError
from qsearch.plugins.registry import load_plugin
from qsearch.spec.study_spec import StudySpec
from qsearch.study import results as saving
from qsearch.study.run import run_spec
from tests.engine.fake_study import FAULTS, SMALL, in_child, results, study_spec

STUDIES = {
    "plain": study_spec(**SMALL, trainer__faults=FAULTS),
    "random, saving steps": study_spec(**SMALL, search__propose="random", trainer__name="resuming"),
    "sampling noise, tried again": study_spec(**SMALL, task__name="counting", name="tried again"),
}
TESTED = 4
"""States of each study that are tested. QSEARCH_EVERY_KILL=1 tests all, which takes minutes."""


def call_at_points(point: Callable[[], None]) -> None:
    """Have this process call a function before and after a file is moved, and before and after a
    commit; also before a file is linked or deleted."""

    def before(event: str, _: object) -> None:
        if event in ("os.rename", "os.link", "os.remove"):
            point()

    def replace(self: Path, target: Path) -> Path:
        moved = original(self, target)
        point()
        return moved

    def commit(self: Any, connection: Any) -> None:
        point()
        commit_now(self, connection)
        point()

    original, commit_now = Path.replace, DefaultDialect.do_commit
    sys.addaudithook(before)
    Path.replace = replace  # type: ignore[method-assign, assignment]
    DefaultDialect.do_commit = commit  # type: ignore[method-assign]


def run_without_a_result(spec: StudySpec, directory: Path) -> None:
    """Run a study in which every evaluation fails, for a reason that is then gone."""

    def fail(*_: object) -> None:
        raise RuntimeError("device lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_plugin("trainers", "fake"), "evaluate", fail)
        with pytest.raises(QsearchError, match="device lost"):
            run_spec(spec, directory)


def is_compared(path: Path) -> bool:
    """Return whether a change of a file makes another state; some change as time passes."""
    return path.is_file() and not re.fullmatch(r"lock|\.?(status|clock)\.json.*", path.name)


def run_and_copy(spec: StudySpec, directory: Path, copies: Path) -> None:
    """Run a study; copy its directory at each point where what it holds has changed."""
    states: set[bytes] = set()

    def point() -> None:
        state = hashlib.sha256()
        for path in filter(is_compared, sorted(directory.rglob("*"))):
            state.update(str(path).encode())
            state.update(path.read_bytes())
        if state.digest() not in states:
            states.add(state.digest())
            shutil.copytree(directory, copies / f"{len(states):04}")

    copies.mkdir()
    saving.SAVE_EVERY = math.inf  # Nothing is saved because time has passed.
    if spec.name == "tried again":
        run_without_a_result(spec, directory)
    call_at_points(point)
    run_spec(spec, directory)


@pytest.fixture(scope="module", params=STUDIES)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StudySpec, pd.DataFrame, list[Path]]:
    """A study, its results, and each state that its directory had, in order."""
    folder = tmp_path_factory.mktemp("whole")
    spec = STUDIES[request.param]
    assert in_child(partial(run_and_copy, spec, folder / "run", folder / "states")) == 0
    return spec, results(folder / "run"), sorted((folder / "states").iterdir())


def test_a_study_killed_at_any_point_resumes_to_the_uninterrupted_result(
    whole: tuple[StudySpec, pd.DataFrame, list[Path]],
) -> None:
    """What a killed process leaves is what its directory held at that moment."""
    spec, expected, states = whole
    assert len(states) > 90
    tested = len(states) if os.environ.get("QSEARCH_EVERY_KILL") else TESTED
    draw = np.random.default_rng(0)
    for part in np.array_split(np.arange(len(states)), tested):
        directory = states[int(draw.choice(part))]
        assert in_child(partial(run_spec, spec, directory)) == 0, directory
        assert_frame_equal(results(directory), expected, check_exact=True, obj=str(directory))
        assert [path.name for path in directory.rglob(".*") if path.is_file()] == []
