"""The command line, run in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engine.fake_study import Done, command_here


@pytest.fixture
def qsearch() -> Callable[..., Done]:
    return command_here
