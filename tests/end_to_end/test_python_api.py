"""The Python API as users meet it: the README's program, its page, and the examples."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import qsearch
from qsearch.monitoring.events import read_events
from qsearch.storage.paths import LOG
from tests.end_to_end.conftest import ROOT
from tests.forking_server import run_fork

EXAMPLES = ROOT / "examples" / "python-api"
DIE_AFTER_SIX_RESULTS = """
import os, signal
from qsearch.api.objective_session import ObjectiveSession

def report(self, *arguments, original=ObjectiveSession.report):
    result = original(self, *arguments)
    if self.done == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

ObjectiveSession.report = report
"""


def blocks(page: Path) -> list[str]:
    """The Python code of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def run_program(folder: Path, code: str) -> tuple[int, str]:
    """Run a program in a folder; return its exit code and what it printed."""
    program = folder / "program.py"
    program.write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = run_fork([sys.executable, program], os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode <= 0, done.stderr
    return done.returncode, done.stdout


def test_the_readme_program_continues_after_a_kill(tmp_path: Path) -> None:
    (code,) = (block for block in blocks(ROOT / "README.md") if "import torch, qsearch" in block)
    assert run_program(tmp_path, DIE_AFTER_SIX_RESULTS + code)[0] == -signal.SIGKILL
    directory = tmp_path / "runs" / "mine"
    returned, printed = run_program(tmp_path, code)
    assert returned == 0
    assert re.match(
        r"Trial\(\d+: [23]\.\d+ average bits, [4-7]\.\d kB, loss .*runs/mine/report.html$", printed
    )
    study = qsearch.load_study(directory)
    assert list(study.trials_dataframe()["trial"]) == list(range(20))
    results = [line for line in read_events(directory / LOG) if line.get("event") == "evaluated"]
    assert [line["trial"] for line in results] == list(range(20))


def run_here(sources: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run code in this process, which has the imports, with fewer trials; return its names."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for source in sources:
        fewer = re.sub(r"trials=\d+|range\(\d\d\)", lambda found: FEWER[found[0][:1]], source)
        exec(compile(fewer, "<block>", "exec"), names)
    return names


FEWER = {"t": "trials=9", "r": "range(6)"}


@pytest.mark.usefixtures("uncompiled")
def test_the_code_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_here(blocks(ROOT / "docs" / "howto-python.md"), tmp_path, monkeypatch)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"mine", "steps", "peers"}
    assert set(names["settings"]["layer"]) == {"0", "2"}


def test_the_notebook_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((EXAMPLES / "any_module.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names = run_here(["".join(cell["source"]) for cell in cells], tmp_path, monkeypatch)
    assert (tmp_path / "any_module.html").is_file()
    assert set(names["front"]) <= set(range(9))
    # It is shown with its results.
    assert all(cell["outputs"] for cell in cells[1:])


def test_the_script_searches_minilm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minilm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (EXAMPLES / "search_minilm.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 25
    run_here([source], tmp_path, monkeypatch)
    *trials, last = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in trials] == [f"Trial({n}" for n in range(9)]
    assert last.startswith("best at 4 bits: Trial(")
    assert (tmp_path / "runs" / "minilm" / "report.html").is_file()
