"""The small study without stop rules."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.engine.fake_study import results
from tests.engine.spec.stopping_studies import reason, run


@pytest.fixture(scope="session")
def unlimited(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Trials of the small study without stop rules."""
    directory = tmp_path_factory.mktemp("unlimited") / "run"
    run(directory)
    assert reason(directory) == "search.rounds: 3 reached"
    return results(directory)
