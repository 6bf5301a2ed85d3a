"""A fake study with failures, run to its end, for all of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ax.core.data import Data

from qsearch.study.run import run_study
from tests.engine.fake_study import FAILING, results


@pytest.fixture(scope="session", autouse=True)
def quiet_saves(fake_plugins: None) -> Iterator[None]:
    """Spare Ax the message with all its data that it writes at each save: a seventh of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Data, "__repr__", object.__repr__)
        yield


@pytest.fixture(scope="session")
def faulty(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the small study with failures, run to its end; read-only for tests."""
    directory = tmp_path_factory.mktemp("faulty") / "run"
    run_study(FAILING, directory)
    return directory


@pytest.fixture(scope="session")
def uninterrupted(faulty: Path) -> pd.DataFrame:
    """Results of the small study with failures, run without interruption."""
    return results(faulty)
