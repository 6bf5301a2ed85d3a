"""A quantizer of another package, found by its entry point, searched and exported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from qsearch.space.configuration import Choices, Configuration, Knob
from qsearch.storage.study_record import read_study
from qsearch.testing import QuantizerConformance
from tests.end_to_end.conftest import ROOT, command, knobs_shown, run_new
from tests.end_to_end.tiny_study import write_tiny_study

EXAMPLE = ROOT / "examples" / "qsearch-ternary"
KNOBS = Choices(
    (
        Knob("planes", (1, 2, 3)),
        Knob("group_size", (32, 64, 128)),
        Knob("threshold", (50, 75, 100)),
    )
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed, as pip would into an environment."""
    target = tmp_path_factory.mktemp("packages")
    source = tmp_path_factory.mktemp("source") / "example"
    # Building writes beside the source, so a copy is built.
    subprocess.run(["cp", "-r", EXAMPLE, source], check=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(target), str(source)], check=True
    )
    return target


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with the example's quantizer."""
    return write_tiny_study(tmp_path_factory.mktemp("study"), "ternary", (1.8, 5.5))


def run_with(packages: Path, arguments: Sequence[str]) -> str:
    """Run a command with the example installed and return what it printed."""
    return run_new(arguments, environment={"PYTHONPATH": str(packages)}).stdout


def command_of_pytest(tests: Path) -> list[str]:
    """Return a command line that runs tests in a new process."""
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]


@pytest.fixture(scope="module")
def directory(packages: Path, study_file: Path) -> Path:
    """The study's directory, run to its end."""
    out = study_file.parent / "run"
    run_with(packages, command("run", study_file, "--out", out))
    return out


def test_plugins_names_the_package_it_comes_from(packages: Path) -> None:
    assert "qsearch-ternary 0.1.0" in run_with(packages, command("plugins"))


def test_its_own_tests_pass(packages: Path) -> None:
    tests = command_of_pytest(EXAMPLE / "tests")
    passed = re.search(r"(\d+) passed", run_with(packages, tests))
    # Some checks are of what this quantizer, or this machine, has not.
    assert passed
    assert int(passed[1]) > len(QuantizerConformance.checks()) / 2


def test_space_is_made_of_its_knobs(packages: Path, study_file: Path) -> None:
    told = run_with(packages, command("check", study_file))
    assert "36 variables in 12 groups" in told  # 12 layers × 3 knobs
    assert "1.725 to 6.3 average" in told  # 1·(8/5 + 16/128) to 3·(8/5 + 16/32)


def test_study_searches_its_knobs_and_reports_them(directory: Path) -> None:
    record = read_study(directory)
    assert record.choices == KNOBS
    assert [entry.round for entry in record.rounds] == [1, 2]
    assert (record.trials["status"] == "completed").all()
    searched = record.trials[record.trials["method"] == "search"]
    assert len(searched)
    for text in searched["configuration"]:
        for layer in Configuration.from_json(text).values():
            KNOBS.index(layer)  # refuses other knobs and other values
    assert knobs_shown(directory / "report.html") == list(KNOBS.names)


def test_average_bits_follow_its_storage_bits(directory: Path) -> None:
    record = read_study(directory)
    for row in record.trials.itertuples():
        stored = sum(
            layer.parameters * c.integer("planes") * (8 / 5 + 16 / c.integer("group_size"))
            for layer, c in zip(
                record.layers, Configuration.from_json(row.configuration).values(), strict=True
            )
        )
        total = sum(layer.parameters for layer in record.layers)
        assert row.average_bits == pytest.approx(stored / total)


def test_picked_configuration_exports_and_loads(
    packages: Path, directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "packed"
    run_with(
        packages, command("export", directory, "--bits", "4", "--to", out, "--format", "packed")
    )
    written = json.loads((out / "config.json").read_text())["quantization_config"]
    assert {tuple(layer) for layer in written["layers"].values()} == {KNOBS.names}
    script = (
        "import sys, torch, qsearch_quantizers\n"
        "from transformers import AutoModelForSequenceClassification\n"
        "model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])\n"
        "print(tuple(model(torch.tensor([[2, 5, 3]])).logits.shape))\n"
    )
    assert "(1, 2)" in run_with(packages, [sys.executable, "-c", script, str(out)])
