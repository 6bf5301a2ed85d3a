"""An empty page that has all scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.reports.chromium import open_tab
from tests.reports.scripts.script_scope import Scope


@pytest.fixture(scope="session")
def scripts(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scope]:
    with open_tab(chromium, tmp_path_factory.mktemp("downloads")):
        yield Scope(chromium)
