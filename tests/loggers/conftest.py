"""The fake study, for loggers."""

from __future__ import annotations

import pytest

from tests.loggers.runs import Recording, record


@pytest.fixture(scope="session")
def recording(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory.mktemp("recording") / "study")
