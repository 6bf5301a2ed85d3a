"""Quantizers with knobs of their own: searched and reported alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.conftest import assert_searched_and_reported, command, run
from tests.end_to_end.tiny_study import write_tiny_study

CASES: dict[str, tuple[tuple[str, ...], tuple[float, float]]] = {
    "integer": (("bits", "group_size"), (2.5, 6.0)),
    "bitsandbytes": (("data_type", "block_size", "scale_bits"), (4.1, 8.0)),
    "hqq": (("bits", "group_size"), (2.5, 7.0)),
    "torchao": (("bits", "group_size", "scheme"), (4.1, 8.0)),
}
"""Knobs and the interval of average bits to search, by quantizer."""


@pytest.mark.parametrize("name", CASES)
def test_study_searches_its_knobs_and_reports_them(name: str, tmp_path: Path) -> None:
    if name != "integer":
        pytest.importorskip(name)
    knobs, interval = CASES[name]
    path = write_tiny_study(tmp_path, name, interval)
    run(command("run", path, "--out", tmp_path / "run"))
    assert_searched_and_reported(tmp_path / "run", knobs)
