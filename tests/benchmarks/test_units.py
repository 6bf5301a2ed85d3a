"""The benchmark of units joins parts that were measured apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import units
from benchmarks.recording import Benchmark, Claim
from benchmarks.units_bytes import formats
from benchmarks.units_stored_types import compare


def test_the_result_has_every_part_that_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "_RECORDS", tmp_path)
    measured = Benchmark("units")
    measured.claim("bytes: all", 0.5, 0.001, "lower")
    measured.row(model="small", exported_bytes=3)
    units.record_part("bytes", measured)
    joined = Benchmark("units")
    for part in units.PARTS:
        units.add_recorded(part, joined)
    assert joined.claims == [Claim("bytes: all", 0.5, 0.001, "lower")]
    (row,) = joined.rows
    assert (row["part"], row["model"], row["exported_bytes"]) == ("bytes", "small", 3)


def test_a_format_that_stores_adapters_in_codes_is_measured_with_them_too() -> None:
    assert list(formats(("packed", "merged"), has_adapter=True)) == [
        ("packed", None),
        ("packed", 8),
        ("merged", None),
    ]
    assert list(formats(("packed",), has_adapter=False)) == [("packed", None)]


def test_changes_of_the_loss_are_paired_and_weighted() -> None:
    benchmark, weights = Benchmark("units"), np.array([1.0, 3.0])
    exact = (np.array([0.5, 1.0]), weights, 100)
    stored = (np.array([0.9, 1.0]), weights, 50)
    compare(benchmark, "study", 3.0, {"float32": exact, "bfloat16": stored})
    exact_row, row = benchmark.rows
    assert (exact_row["loss"], exact_row["change"]) == (0.875, 0.0)
    assert (row["loss"], row["change"], row["file_bytes"]) == (0.975, 0.1, 50)
    (claim,) = benchmark.claims
    assert claim.value == pytest.approx(0.1)
    assert not claim.met
