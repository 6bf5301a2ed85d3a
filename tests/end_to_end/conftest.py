"""One small study on the real MiniLM, run once through the command line."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from qsearch.space.configuration import Configuration
from qsearch.storage.study_record import read_study
from tests.forking_server import run_fork

ROOT = Path(__file__).parent.parent.parent
VARIABLES = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
QUICKSTART = ROOT / "studies" / "quickstart.yaml"
# The quickstart with fewer layers, texts, steps, knob values and configurations.
SMALL = {
    "name": "small",
    "model.layers": '["encoder.layer.[01].*"]',
    "task.docstrings.packages": "[torch, scipy]",
    "task.docstrings.train_texts": "24",
    "task.docstrings.validation_texts": "8",
    "task.max_length": "16",
    "quantizer.bits": "[2, 3, 4]",
    "quantizer.scale_bits": "[8]",
    "quantizer.scale_dtype": "[float16]",
    "quantizer.block_size": "[32, 64]",
    "quantizer.scale_block_size": "[64]",
    "trainer.first_steps": "4",
    "trainer.steps": "3",
    "trainer.batch_size": "8",
    "search.rounds": "2",
    "search.initial": "5",
    "search.candidates": "2",
    "search.segments": "8",
    "search.average_bits": "[2.3, 4.3]",
}


def command(*arguments: str | Path) -> list[str]:
    """Return a command line that runs qsearch in a new process."""
    return [sys.executable, "-m", "qsearch", *map(str, arguments)]


def small_study(out: Path, **changes: str) -> list[str]:
    """Return the command line of the small study."""
    settings = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    if "quantizer" in settings:  # Another quantizer; the small study's knobs are not its own.
        settings = {k: v for k, v in settings.items() if not k.startswith("quantizer.")}
    overrides = [part for item in settings.items() for part in ("--set", "=".join(item))]
    return command("run", QUICKSTART, "--out", out, *overrides)


def run(
    arguments: Sequence[str], expect: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of qsearch, which must exit so, in a fork of a process with its imports done.

    Those take longest.
    """
    done = run_fork(arguments, VARIABLES | variables)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def run_new(arguments: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run any command, which must succeed, in a new process."""
    result = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        env=VARIABLES | variables,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def assert_searched_and_reported(directory: Path, knobs: Sequence[str]) -> None:
    """Require that a finished study of two rounds searched these knobs, and that its page has them.

    No evaluation may have failed.
    """
    record = read_study(directory)
    assert record.choices.names == knobs
    assert [entry.round for entry in record.rounds] == [1, 2]
    assert (record.trials["status"] == "completed").all()
    searched = record.trials.loc[record.trials["method"] == "search", "configuration"]
    assert len(searched)
    for layer in itertools.chain(*(Configuration.from_json(text).values() for text in searched)):
        record.choices.index(layer)  # refuses other knobs and other values
    page = (directory / "report.html").read_text(encoding="utf-8")
    packed = page.split('id="report-data">')[1].split("<")[0]
    (study,) = json.loads(zlib.decompress(base64.b64decode(packed)))["studies"]
    assert [knob["name"] for knob in study["knobs"]] == list(knobs)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Path:
    """Directory of the small study, run to its end by a new process."""
    directory = tmp_path_factory.mktemp("small") / "run"
    mine = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        run_new(small_study(directory))
        return directory
    # The test processes share one run; each has a copy, since some tests continue it.
    shared = mine.parent / "small"
    with (mine.parent / "small.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.is_dir():
            run_new(small_study(directory))
            shutil.copytree(directory, shared)
    if not directory.is_dir():
        shutil.copytree(shared, directory)
    return directory
