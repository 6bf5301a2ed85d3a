"""The package that docs/howto-quantizer.md shows is right as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, command, run_new

FILES = {"pyproject.toml", "qsearch_absmax.py", "test_absmax.py"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, each a block whose first line is its name, and an install."""
    folder = tmp_path_factory.mktemp("absmax")
    page = (ROOT / "docs" / "howto-quantizer.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\w+\n# (\S+\.(?:py|toml))\n(.*?)```", page, flags=re.DOTALL)
    assert {name for name, _ in blocks} == FILES
    for name, text in blocks:
        (folder / name).write_text(text, encoding="utf-8")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    installed = folder / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(installed), str(folder)], check=True
    )
    return folder


def run_in(package: Path, arguments: list[str]) -> str:
    """Run a command with the package installed and return what it printed."""
    return run_new(arguments, environment={"PYTHONPATH": str(package / "installed")}).stdout


def test_it_is_found_by_its_entry_point(package: Path) -> None:
    assert "qsearch-absmax 0.1.0" in run_in(package, command("plugins"))


def test_its_own_tests_pass(package: Path) -> None:
    tests = str(package / "test_absmax.py")
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(package)]
    told = run_in(package, [sys.executable, "-m", "pytest", *options, tests])
    assert re.search(r"\d+ passed", told)
