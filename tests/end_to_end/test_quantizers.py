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
    "compressed-tensors": (("scheme",), (4.0, 8.0)),
}
"""Knobs and the interval of average bits to search, by quantizer."""

OPTIONS = {"compressed-tensors": "scheme=[W3A16-g32, W4A16-channel, FP8]"}


@pytest.mark.parametrize("name", CASES)
def test_study_searches_its_knobs_and_reports_them(name: str, tmp_path: Path) -> None:
    if name not in ("integer", "compressed-tensors"):
        pytest.importorskip(name)
    knobs, interval = CASES[name]
    path = write_tiny_study(tmp_path, name, interval)
    options = ["--set", f"quantizer.{OPTIONS[name]}"] if name in OPTIONS else []
    run(command("run", path, "--out", tmp_path / "run", *options))
    assert_searched_and_reported(tmp_path / "run", knobs)
