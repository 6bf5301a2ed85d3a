"""Tokens a second of configurations, in frames and on the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from qsearch_reports.frames import points_frame, tokens_per_second
from qsearch_reports.page import payload
from qsearch_reports.page.payload import study_payload
from qsearch_reports.results import StudyResults, read_results

from qsearch.plugins.speed import ProductSpeed, SpeedConditions, SpeedTable
from qsearch.storage.measurements import write_speed
from qsearch.storage.study_record import StudyRecord, row_configuration, write_study
from tests.reports.realistic_studies import make_record


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return make_record(rounds=2, trials_per_round=4)


def table_of(record: StudyRecord) -> SpeedTable:
    shapes = dict.fromkeys(layer.shape for layer in record.layers)
    products = tuple(
        ProductSpeed(shape, dict(own), "type", place + number, 1.0)
        for place, shape in enumerate(shapes)
        for number, own in enumerate(record.choices.layer_configurations, start=1)
    )
    conditions = SpeedConditions("made", "1", "a machine", 1, 128)
    return SpeedTable(conditions, products, 1e-3, 1e-4, looked_up=(record.layers[0].name,))


def test_rows_have_the_speed_of_their_configuration(record: StudyRecord) -> None:
    table = table_of(record)
    completed = record.trials[record.trials["status"] == "completed"]
    rows = completed.sort_values(["round", "trial"]).iterrows()
    expected = [table.generation(record.layers, row_configuration(row)) for _, row in rows]
    assert tokens_per_second(record, table) == pytest.approx(expected, rel=1e-12)
    assert np.isnan(tokens_per_second(record, None)).tolist() == [True] * len(points_frame(record))


def test_pages_have_what_was_measured(
    record: StudyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "_figures", lambda *_: {})
    write_study(tmp_path, record)
    assert read_results(tmp_path).speed is None
    without = study_payload(StudyResults(record, "a"), "a")["points"]["tokens_per_second"]
    assert set(without) == {None}
    write_speed(tmp_path, table_of(record))
    speed = read_results(tmp_path).speed
    assert speed is not None
    values = study_payload(StudyResults(record, "a", speed=speed), "a")["points"]
    assert values["tokens_per_second"] == pytest.approx(tokens_per_second(record, speed))
