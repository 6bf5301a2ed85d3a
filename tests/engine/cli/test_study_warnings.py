"""What limits results is said by ``check`` and ``run``, and kept with the results."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsearch.deployment.model_card import export_facts
from qsearch.monitoring.events import EventKind, read_events
from qsearch.plugins.source_precision import SourcePrecision
from qsearch.storage.paths import LOG
from qsearch.storage.study_record import read_study
from tests.engine.fake_study import write_study_yaml

PRECISION = SourcePrecision(("Q4_1",), ("Q8_0",), 5.0)
WARNINGS = (
    "the texts overlap",
    "the model's file is quantized already: Q4_1 weights (5 bits), Q8_0 embeddings; 'full"
    " precision' means that of the file, and errors of quantization are errors against it",
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of the task with a warning, and of a model of 5 bits under terms."""
    changes = {"task": {"name": "limited"}, "trainer": {"name": "limited"}}
    return write_study_yaml(tmp_path / "my.yaml", **changes)


def test_check_says_precision_terms_and_warnings(study: Path, qsearch) -> None:
    code, output, _ = qsearch("check", study)
    assert code == 0
    text = " ".join(output.split())
    assert "1.0 M parameters, Q4_1 weights (5 bits), Q8_0 embeddings" in text
    assert "note under terms" in text
    for warning in WARNINGS:
        assert f"warning {warning}" in text


def test_a_run_says_them_once_and_keeps_them(study: Path, qsearch, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, output, _ = qsearch("run", study, "--out", out, "--set", "search.rounds=1")
    assert code == 0
    text = " ".join(output.split())
    for note in ("under terms", *WARNINGS):
        assert text.count(f"note: {note}") == 1
    record = read_study(out)
    assert record.warnings == WARNINGS
    assert record.source_precision == PRECISION
    facts = export_facts(record, record.latest.iloc[0])
    assert facts["source_precision"] == PRECISION.text
    assert facts["warnings"] == list(WARNINGS)
    _, again, _ = qsearch("run", study, "--out", out, "--set", "search.rounds=2")
    assert "note:" not in again
    noted = [line for line in read_events(out / LOG) if line["event"] == EventKind.NOTED]
    assert [line["notes"] for line in noted] == [["under terms", *WARNINGS]]
    assert read_study(out).warnings == WARNINGS


def test_a_study_without_them_says_nothing(finished: Path) -> None:
    record = read_study(finished)
    assert record.warnings == ()
    assert record.source_precision is None
    assert all(line["event"] != EventKind.NOTED for line in read_events(finished / LOG))


@pytest.mark.parametrize(
    ("layers", "embeddings", "bits", "text"),
    [
        (("float32",), ("float32",), 32.0, "float32"),
        (("bfloat16",), (), 16.0, "bfloat16"),
        (("bfloat16",), ("float32",), 16.0, "bfloat16 weights, float32 embeddings"),
        (("Q4_K", "Q6_K"), (), 4.7, "Q4_K and Q6_K weights (4.7 bits)"),
    ],
)
def test_precision_is_a_phrase(
    layers: tuple[str, ...], embeddings: tuple[str, ...], bits: float, text: str
) -> None:
    precision = SourcePrecision(layers, embeddings, bits)
    assert precision.text == text
    assert (precision.note is None) == (bits >= 16)
