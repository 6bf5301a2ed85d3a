"""The results of one fake study, and settings of all of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pytest
from ax.core.data import Data
from hypothesis import settings

from qsearch.study.run import run_study
from tests.engine.support import FAULTS, SMALL, results, study_spec

# The same examples at each run, and no time limits: machines are shared.
settings.register_profile("engine", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("engine")


@pytest.fixture(scope="session", autouse=True)
def quiet_saves(fake_plugins: None) -> Iterator[None]:
    """Spare Ax the message with all its data that it writes at each save: a seventh of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Data, "__repr__", object.__repr__)
        yield


@pytest.fixture(scope="session")
def uninterrupted(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Results of the small fake study with failures, run without interruption."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    run_study(study_spec(**SMALL, trainer__faults=FAULTS), directory)
    return results(directory)
