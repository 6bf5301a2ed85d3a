"""A study of a GGUF file, with what llama.cpp makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from qsearch.plugins.engines import EngineSpeed
from qsearch.spec.study_spec import load_spec
from qsearch.spec.yaml_text import dump_yaml
from qsearch.storage.measurements import read_speed
from qsearch.storage.paths import SPEED_FILE
from qsearch.study.run import run_spec
from tests.coalora.export.small_gguf import write_small
from tests.engine.fake_study import command_here

pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's directory, which evaluated the files of its configurations."""
    folder = tmp_path_factory.mktemp("llama-cpp")
    write_small(folder / "small.gguf", 64, 128)
    for number, split in enumerate(("train", "validation", "test")):
        (folder / f"{split}.txt").write_text(
            f"The film of {number} was good and the plot fine. " * 9
        )
    values = {
        "name": "engine",
        "model": {"name": "./small.gguf"},
        "task": {"name": "causal-lm", "length": 24}
        | {split: f"./{split}.txt" for split in ("train", "validation", "test")},
        "quantizer": {"name": "gguf", "types": ["Q4_0", "Q8_0"]},
        "trainer": {"name": "ptq", "fine_tune": False, "evaluate_in": "llama.cpp"},
        "search": {"rounds": 1, "initial": 4, "candidates": 1, "average_bits": [4.6, 8.4]},
    }
    values["trainer"]["calibration_batches"] = 1
    (folder / "study.yaml").write_text(dump_yaml(values))
    run_spec(load_spec(folder / "study.yaml"), folder / "run")
    return folder / "run"


def printed(*arguments: str | Path) -> Any:
    done = command_here(*arguments)
    assert done.code == 0, done.errors
    return json.loads(done.output)


def test_files_are_evaluated_next_to_the_study(run: Path) -> None:
    """Here the study evaluates files itself, so both are the same."""
    found = printed("evaluate", run, "--bits", "6", "--in", "llama.cpp", "--json")
    models = {model["name"]: model for model in found["models"]}
    trial = found["models"][0]
    own = models[f"{trial['name']} in llama.cpp"]
    assert own["loss"] == pytest.approx(trial["loss"], abs=1e-5)
    assert own["metrics"]["kl"]["value"] == pytest.approx(trial["metrics"]["kl"]["value"], abs=1e-5)
    assert own["engine"]["generation_tokens_per_second"] > 0
    assert trial["engine"] is None
    # As packed, all that is not quantized is stored otherwise.
    assert own["file_bytes"] != trial["file_bytes"]
    table = command_here("evaluate", run, "--bits", "6", "--in", "llama.cpp").output
    assert "generated tokens/s" in table
    assert table.count(f"{trial['name']} in llama.cpp") >= 3  # Its values, difference and speed.


def test_engines_that_do_not_exist_are_refused(run: Path) -> None:
    done = command_here("evaluate", run, "--bits", "6", "--in", "vllm")
    assert done.code == 2
    assert "--in 'vllm': the study's trainer knows no such engine; it has llama.cpp" in done.errors
    done = command_here("evaluate", run, "--bits", "6", "--in", "llama.cpp", "--lm-eval", "x")
    assert "leave --split, --length and --in out" in done.errors


def test_a_configuration_is_picked_by_its_speed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First it has to be measured; another study of this machine takes what it has in common."""
    monkeypatch.setattr("qsearch_coalora.llama_cpp.speed._SECONDS", 1e-6)
    monkeypatch.setattr("qsearch_coalora.llama_cpp.speed._PROMPT_WEIGHTS", 1)
    monkeypatch.setattr("qsearch_coalora.llama_cpp.speed._PASSES", (1, 2))
    monkeypatch.setattr("qsearch_coalora.llama_cpp.speed._SETTLED", 1.0)
    without = command_here("pick", run, "--tokens-per-second", "1")
    assert "no speed was measured of" in without.errors
    assert "run qsearch measure-speed" in without.errors
    assert printed("pick", run, "--bits", "9", "--json")["speed"] is None

    measured = command_here("measure-speed", run, "--threads", "1")
    assert measured.code == 0, measured.errors
    assert "Q4_0" in measured.output
    assert "predictions are within" in measured.output
    table = read_speed(run)
    assert table is not None
    # 64 × 64, 32 × 64, 128 × 64 and 64 × 128, with two types each.
    assert len(table.products) == 8
    assert len(table.checks) == 3

    best = printed("pick", run, "--bits", "9", "--json")
    picked = printed("pick", run, "--tokens-per-second", "1", "--json")
    assert picked["trial"] == best["trial"]
    assert picked["speed"]["threads"] == 1
    assert picked["speed"]["generation_tokens_per_second"] > 1
    assert "tokens a second" in command_here("pick", run, "--bits", "9").output
    too_fast = command_here("pick", run, "--tokens-per-second", "1e9")
    assert too_fast.code == 2
    assert "the fastest configuration generates" in too_fast.errors

    speed = EngineSpeed(1, 128, 1000.0, 100.0, 0)
    monkeypatch.setattr("qsearch_coalora.llama_cpp.speed.file_speed", lambda *_: speed)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / SPEED_FILE).unlink()
    again = command_here("measure-speed", other, "--threads", "1", "--from", run)
    assert again.code == 0, again.errors
    copied = read_speed(other)
    assert copied is not None
    assert copied.products == table.products
    assert [check.generation for check in copied.checks] == pytest.approx([100.0] * 3)
    refused = command_here("measure-speed", other, "--threads", "2", "--from", run)
    assert "it was measured elsewhere: threads 1, here 2" in refused.errors
