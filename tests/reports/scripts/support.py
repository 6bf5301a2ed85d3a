"""Settings of property tests that call into the browser, and studies in a page."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings
from qsearch_reports.page.payload import study_payload
from qsearch_reports.results import StudyResults

from tests.reports.page_scripts import Scope

QUICK = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
"""Few examples, the same at each run: each is a call into the browser."""


def json_payload(results: StudyResults) -> dict[str, Any]:
    """Return what the page has of a study, as JSON gives it."""
    payload: dict[str, Any] = json.loads(json.dumps(study_payload(results, "a study")))
    return payload


def load_study(scope: Scope, payload: dict[str, Any]) -> None:
    """Make a study the variable ``study`` of a page that has ``decode.js``."""
    scope.evaluate(
        "{globalThis.study = payload;"
        " study.choiceIndices = await unpack(study.configurations);"
        " study.count = study.points.trial.length}",
        payload=payload,
    )
