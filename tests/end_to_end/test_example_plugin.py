"""Quantizers of other packages, found by entry point: the example's and the documentation's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, assert_searched_and_reported, command, run, run_new
from tests.end_to_end.tiny_study import write_tiny_study

EXAMPLE = ROOT / "examples" / "qsearch-ternary"
KNOBS = ("planes", "group_size", "threshold")


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of docs/howto-quantizer.md, each a block whose first line is its name."""
    folder = tmp_path_factory.mktemp("absmax")
    page = (ROOT / "docs" / "howto-quantizer.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\w+\n# (\S+\.(?:py|toml))\n(.*?)```", page, flags=re.DOTALL)
    assert {name for name, _ in blocks} == {"pyproject.toml", "qsearch_absmax.py", "test_absmax.py"}
    for name, text in blocks:
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def packages(page_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages installed, as pip would into an environment."""
    target = tmp_path_factory.mktemp("packages")
    # Building writes next to the source, so a copy is built.
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "example")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    pip = [sys.executable, "-m", "pip", "install", *options]
    subprocess.run([*pip, str(target), str(source), str(page_folder)], check=True)
    return target


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with the example's quantizer."""
    return write_tiny_study(tmp_path_factory.mktemp("study"), "ternary", (1.8, 5.5))


def run_with(packages: Path, arguments: Sequence[str]) -> str:
    """Run a command with the packages installed and return what it printed."""
    return run(arguments, PYTHONPATH=str(packages)).stdout


@pytest.fixture(scope="module")
def directory(packages: Path, study_file: Path) -> Path:
    """The study's directory, run to its end."""
    out = study_file.parent / "run"
    run_with(packages, command("run", study_file, "--out", out))
    return out


def test_plugins_names_the_packages_that_they_come_from(packages: Path) -> None:
    printed = run_with(packages, command("plugins"))
    assert "qsearch-ternary 0.1.0" in printed
    assert "qsearch-absmax 0.1.0" in printed


# Some checks are of what the example's quantizer, or this machine, has not.
@pytest.mark.parametrize(("package", "least"), [("ternary", 20), ("absmax", 0)])
def test_its_own_tests_pass(package: str, least: int, packages: Path, page_folder: Path) -> None:
    tests = EXAMPLE / "tests" if package == "ternary" else page_folder / "test_absmax.py"
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tests.parent)]
    printed = run_with(packages, [sys.executable, "-m", "pytest", *options, str(tests)])
    passed = re.search(r"(\d+) passed", printed)
    assert passed
    assert int(passed[1]) > least


def test_space_is_made_of_its_knobs(packages: Path, study_file: Path) -> None:
    printed = run_with(packages, command("check", study_file))
    assert "36 variables in 12 groups" in printed  # 12 layers × 3 knobs
    assert "1.725 to 6.3 average" in printed  # 1·(8/5 + 16/128) to 3·(8/5 + 16/32)


def test_study_searches_its_knobs_and_reports_them(directory: Path) -> None:
    assert_searched_and_reported(directory, KNOBS)


def test_picked_configuration_exports_and_loads(
    packages: Path, directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "packed"
    run_with(
        packages, command("export", directory, "--bits", "4", "--to", out, "--format", "packed")
    )
    written = json.loads((out / "config.json").read_text())["quantization_config"]
    assert {tuple(layer) for layer in written["layers"].values()} == {KNOBS}
    script = (
        "import sys, torch, qsearch_quantizers\n"
        "from transformers import AutoModelForSequenceClassification\n"
        "model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])\n"
        "print(tuple(model(torch.tensor([[2, 5, 3]])).logits.shape))\n"
    )
    loaded = run_new([sys.executable, "-c", script, str(out)], PYTHONPATH=str(packages))
    assert "(1, 2)" in loaded.stdout
