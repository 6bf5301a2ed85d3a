"""The fake study, for loggers."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def with_fake_plugins(fake_plugins: None) -> None:
    """Install the fake plugins for all of these tests."""
