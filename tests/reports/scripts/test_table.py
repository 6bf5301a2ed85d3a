"""Columns of the table of evaluations, and values of the card, as far as they are known."""

from __future__ import annotations

import pytest
from qsearch_reports.page import payload
from qsearch_reports.page.payload import study_payload
from qsearch_reports.results import StudyResults

from tests.reports.frames.test_speed import table_of
from tests.reports.realistic_studies import make_record
from tests.reports.scripts.script_scope import Scope


def test_tokens_a_second_are_shown_where_they_are_predicted(
    scripts: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "_figures", lambda *_: {})
    record = make_record(rounds=1, trials_per_round=4)
    for speed in (None, table_of(record)):
        study = study_payload(StudyResults(record, "a", speed=speed), "a study")
        headings = scripts.evaluate(
            "tableColumns(study).map(({ heading }) => heading)", study=study
        )
        assert ("Tokens a second" in headings) == (speed is not None)
        values = dict(scripts.evaluate("rowValues(study, 0)", study=study))
        predicted = study["points"]["tokens_per_second"][0]
        expected = None if predicted is None else f"{predicted:.1f}, predicted"
        assert values.get("tokens a second") == expected
