"""One study in an empty page that has all scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from qsearch_reports.results import StudyResults

from tests.reports.page_scripts import Scope
from tests.reports.scripts.support import json_payload, load_study


@pytest.fixture(scope="session")
def payload(results: StudyResults) -> dict[str, Any]:
    """What the page has of ``results``; read-only for tests."""
    return json_payload(results)


@pytest.fixture(scope="module")
def study_page(script: Callable[..., Scope], payload: dict[str, Any]) -> Scope:
    """A page with all scripts, and ``results`` without its figures as ``study``."""
    scope = script("study.js")
    load_study(scope, {**payload, "figures": {}})
    return scope
