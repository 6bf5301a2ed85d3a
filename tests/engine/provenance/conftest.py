"""Programs that say what a study runs with are waited for, however busy the machine."""

from __future__ import annotations

import pytest

from qsearch.provenance import environment, git


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (environment, git):
        monkeypatch.setattr(module, "_SECONDS", 500.0)
