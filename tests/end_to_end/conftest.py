"""One small study on the real MiniLM, run once through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from qsearch.records import read_study

ROOT = Path(__file__).parent.parent.parent
QUICKSTART = ROOT / "studies" / "quickstart.yaml"
# The quickstart with fewer texts, steps, knob values and configurations.
SMALL = {
    "name": "small",
    "task.docstrings.train_texts": "24",
    "task.docstrings.validation_texts": "8",
    "quantizer.bits": "[2, 3, 4]",
    "quantizer.scale_bits": "[8]",
    "quantizer.scale_dtype": "[float16]",
    "quantizer.block_size": "[32, 64]",
    "quantizer.scale_block_size": "[64]",
    "trainer.first_steps": "4",
    "trainer.steps": "3",
    "trainer.batch_size": "8",
    "search.rounds": "2",
    "search.initial": "6",
    "search.candidates": "3",
    "search.segments": "8",
    "search.average_bits": "[2.3, 4.3]",
}


def command(*arguments: str | Path) -> list[str]:
    """Return a command line that runs qsearch in a new process."""
    return [sys.executable, "-m", "qsearch.cli", *map(str, arguments)]


def small_study(out: Path, **changes: str) -> list[str]:
    """Return the command line of the small study."""
    settings = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    if "quantizer" in settings:  # Another quantizer; the small study's knobs are not its own.
        settings = {k: v for k, v in settings.items() if not k.startswith("quantizer.")}
    overrides = [part for item in settings.items() for part in ("--set", "=".join(item))]
    return command("run", QUICKSTART, "--out", out, *overrides)


def run(
    arguments: Sequence[str], expect: int = 0, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, with some more environment variables, and require its exit code."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(environment or {})}
    result = subprocess.run(
        arguments, capture_output=True, text=True, env=variables, timeout=500, check=False
    )
    assert result.returncode == expect, result.stdout + result.stderr
    return result


def results(directory: Path) -> pd.DataFrame:
    """Return what must not depend on interruptions: all of the trials but wall time."""
    return read_study(directory).trials.drop(columns="seconds")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Path:
    """Directory of the small study, run to its end."""
    directory = tmp_path_factory.mktemp("small") / "run"
    run(small_study(directory))
    return directory
