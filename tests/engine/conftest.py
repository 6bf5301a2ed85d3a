"""A fake study with failures, run to its end, for all of the engine's tests."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from qsearch.study.run import run_spec
from tests.engine.fake_study import FAILING, results


@pytest.fixture(scope="session", autouse=True)
def fake_plugins_everywhere(fake_plugins: None) -> None:
    """Install the fake plugins for every test."""


@pytest.fixture(scope="session")
def faulty(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the small study with failures, run to its end; read-only for tests."""
    directory = tmp_path_factory.mktemp("faulty") / "run"
    run_spec(FAILING, directory)
    return directory


@pytest.fixture(scope="session")
def uninterrupted(faulty: Path) -> pd.DataFrame:
    """Results of the small study with failures, run without interruption."""
    return results(faulty)
