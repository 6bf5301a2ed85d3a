"""An unfinished fake study, a sandbox, and the count of inputs tried."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from qsearch.study.run import run_spec
from tests.engine.fake_study import evaluations_of, study_spec
from tests.fuzz.broken_input import COUNTS_VARIABLE, EXAMPLES_VARIABLE, TRIED, Sandbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that were asked for more inputs than usual the time that these take."""
    if float(os.environ.get(EXAMPLES_VARIABLE, "1")) > 1:
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(scope="session", autouse=True)
def count_inputs(fake_plugins: None) -> Iterator[None]:
    """Add how many inputs were tried, by kind, to the file that QSEARCH_FUZZ_COUNTS names."""
    yield
    named = os.environ.get(COUNTS_VARIABLE)
    if named:
        path = Path(named)
        before = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(dict(sorted((TRIED + Counter(before)).items())), indent=1))


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A tree with home, temporary folder and neighbours, and a place for the study in it."""
    sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(sandbox.root / "home"))
        patch.setenv("TMPDIR", str(sandbox.root / "tmp"))
        patch.setattr("tempfile.tempdir", None)
        patch.chdir(sandbox.root / "work")
        yield sandbox
        patch.setattr("tempfile.tempdir", None)


@pytest.fixture(scope="session")
def unfinished(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the same study, stopped in its second round; read-only for tests."""
    directory = tmp_path_factory.mktemp("unfinished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        evaluations_of(patch, stop_at=11)
        with pytest.raises(KeyboardInterrupt):
            run_spec(study_spec(), directory)
    return directory
