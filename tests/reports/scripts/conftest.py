"""One study in an empty page that has all scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from qsearch_reports.page.payload import study_payload
from qsearch_reports.results import StudyResults

from tests.reports.page_scripts import Scope


@pytest.fixture(scope="session")
def payload(results: StudyResults) -> Any:
    """What the page has of ``results``; read-only for tests."""
    return json.loads(json.dumps(study_payload(results, "a study")))


@pytest.fixture(scope="module")
def study_page(script: Callable[..., Scope]) -> Scope:
    """A page with all scripts."""
    return script("study.js")
