"""Quantizers with knobs of their own: searched, reported, picked and exported alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qsearch.space.configuration import Configuration
from qsearch.storage.study_record import read_study
from tests.end_to_end.conftest import assert_searched_and_reported, command, run
from tests.end_to_end.tiny_study import write_tiny_study

BUDGET = 5.0


CASES: dict[str, tuple[tuple[str, ...], tuple[float, float]]] = {
    "integer": (("bits", "group_size"), (2.5, 6.0)),
    "bitsandbytes": (("data_type", "block_size", "scale_bits"), (4.1, 8.0)),
    "hqq": (("bits", "group_size"), (2.5, 7.0)),
    "torchao": (("bits", "group_size", "scheme"), (4.1, 8.0)),
}
"""Knobs and the interval of average bits to search, by quantizer."""


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    """One of the quantizers, where its package is installed."""
    if request.param != "integer":
        pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def directory(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a study of the quantizer, run to its end."""
    folder = tmp_path_factory.mktemp(name)
    path = write_tiny_study(folder, name, CASES[name][1])
    run(command("run", path, "--out", folder / "run"))
    return folder / "run"


def test_study_searches_its_knobs_and_reports_them(name: str, directory: Path) -> None:
    assert_searched_and_reported(directory, CASES[name][0])


def test_a_picked_configuration_is_within_the_budget_and_exported(
    name: str, directory: Path, tmp_path: Path
) -> None:
    budget = ("--bits", str(BUDGET))
    picked = json.loads(run(command("pick", directory, *budget, "--json")).stdout)
    assert CASES[name][1][0] <= picked["average_bits"] <= BUDGET
    out = tmp_path / "adapter"
    run(command("export", directory, *budget, "--to", out, "--format", "adapter"))
    assert (out / "adapter_model.safetensors").is_file()
    configuration = Configuration.from_json((out / "configuration.json").read_text())
    assert len(configuration)
    for layer in configuration.values():
        read_study(directory).choices.index(layer)  # refuses other knobs and other values
