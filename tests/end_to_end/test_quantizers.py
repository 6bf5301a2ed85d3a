"""Quantizers with knobs of their own: searched, reported, picked and exported alike."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from qsearch.space.configuration import Configuration
from qsearch.storage.study_record import read_study
from tests.end_to_end.conftest import command, knobs_shown, run
from tests.end_to_end.tiny_study import write_tiny_study

BUDGET = 5.0


@dataclass(frozen=True)
class Case:
    """A quantizer, its knobs, and the interval of average bits to search."""

    name: str
    knobs: tuple[str, ...]
    average_bits: tuple[float, float]


CASES = (
    Case("integer", ("bits", "group_size"), (2.5, 6.0)),
    Case("bitsandbytes", ("data_type", "block_size", "scale_bits"), (4.1, 8.0)),
    Case("hqq", ("bits", "group_size"), (2.5, 7.0)),
    Case("torchao", ("bits", "group_size", "scheme"), (4.1, 8.0)),
)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """One of the quantizers, where its package is installed."""
    case: Case = request.param
    if case.name != "integer":
        pytest.importorskip(case.name)
    return case


@pytest.fixture(scope="module")
def directory(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a study of the quantizer, run to its end."""
    folder = tmp_path_factory.mktemp(case.name)
    path = write_tiny_study(folder, case.name, case.average_bits)
    run(command("run", path, "--out", folder / "run"))
    return folder / "run"


def test_study_searches_its_knobs(case: Case, directory: Path) -> None:
    record = read_study(directory)
    assert record.choices.names == case.knobs
    assert [entry.round for entry in record.rounds] == [1, 2]
    assert (record.trials["status"] == "completed").all()
    assert record.trials["loss"].notna().all()
    assert (record.trials["method"] == "search").any()


def test_report_names_its_knobs(case: Case, directory: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    run(command("report", directory, "--out", page))
    assert knobs_shown(page) == list(case.knobs)


def test_pick_is_within_the_budget(case: Case, directory: Path) -> None:
    picked = json.loads(run(command("pick", directory, "--bits", str(BUDGET), "--json")).stdout)
    assert case.average_bits[0] <= picked["average_bits"] <= BUDGET


def test_adapter_of_a_picked_configuration_is_exported(
    case: Case, directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    bits = ("--bits", str(BUDGET))
    run(command("export", directory, *bits, "--to", out, "--format", "adapter"))
    assert (out / "adapter_model.safetensors").is_file()
    choices = read_study(directory).choices
    configuration = Configuration.from_json((out / "configuration.json").read_text())
    assert len(configuration)
    for layer in configuration.values():
        choices.index(layer)  # refuses other knobs and other values
    assert choices.names == case.knobs
