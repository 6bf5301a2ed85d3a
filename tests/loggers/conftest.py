"""The fake study, for loggers."""

from __future__ import annotations

import pytest

from tests.engine.conftest import fake_plugins
from tests.loggers.runs import Recording, record

__all__ = ["fake_plugins"]


@pytest.fixture(scope="session")
def recording(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory.mktemp("recording") / "study")
