"""``qsearch evaluate`` on a small language model: the study's own model and data, at any length."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from qsearch.spec.study_spec import load_spec
from qsearch.spec.yaml_text import dump_yaml
from qsearch.storage.split_evaluations import read_evaluations
from qsearch.study.run import run_spec
from tests.coalora.conftest import WORDS, save_llama
from tests.engine.fake_study import command_here


def write_text(path: Path, seed: int) -> None:
    draw = random.Random(seed)
    path.write_text("\n".join(" ".join(draw.choices(WORDS, k=12)) for _ in range(40)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study, its model and its data, and the study run; read-only for tests."""
    folder = tmp_path_factory.mktemp("evaluate") / "study"
    (folder / "model").mkdir(parents=True)
    save_llama(folder / "model", 64)
    for seed, split in enumerate(("train", "validation", "test")):
        write_text(folder / f"{split}.txt", seed)
    values = {
        "name": "evaluate",
        "model": {"name": "./model"},
        "task": {"name": "causal-lm", "length": 24}
        | {split: f"./{split}.txt" for split in ("train", "validation", "test")},
        "quantizer": {"name": "integer", "bits": [2, 4, 8], "group_size": [32]},
        "trainer": {"name": "ptq", "fine_tune": False, "calibration_batches": 1},
        "search": {"rounds": 1, "initial": 4, "candidates": 1, "average_bits": [2.6, 8.4]},
    }
    (folder / "study.yaml").write_text(dump_yaml(values))
    run_spec(load_spec(folder / "study.yaml"), folder / "run")
    return folder


def refused(*arguments: str | Path) -> str:
    """Require that a command refuses its input; return the line that says why, after warnings."""
    done = command_here(*arguments)
    assert done.code == 2, done.errors
    return done.errors.splitlines()[-1]


def test_a_changed_text_of_the_study_is_refused_and_a_changed_test_text_is_not(
    whole: Path, tmp_path: Path
) -> None:
    """At any length: what is compared is the study's own."""
    kept = {split: (whole / f"{split}.txt").read_text() for split in ("validation", "test")}
    try:
        for arguments in ([], ["--length", "12"]):
            run = ("evaluate", whole / "run", "--bits", "5", *arguments)
            write_text(whole / "validation.txt", 7)
            assert "validation examples: " in refused(*run)
            (whole / "validation.txt").write_text(kept["validation"])
            write_text(whole / "test.txt", 8)
            assert command_here(*run).code == 0
            (whole / "test.txt").write_text(kept["test"])
    finally:
        for split, text in kept.items():
            (whole / f"{split}.txt").write_text(text)


def test_evaluations_are_kept_by_split_and_length(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what each sequence scored: differences come out the same."""
    run = ("evaluate", whole / "run", "--bits", "5")
    for arguments in ([], ["--length", "12"], ["--split", "validation"]):
        shutil.rmtree(whole / "run" / "state" / "evaluations", ignore_errors=True)
        first = command_here(*run, *arguments, "--json")
        assert first.code == 0, first.errors
        with monkeypatch.context() as patch:
            patch.setattr("qsearch_coalora.training.evaluation.evaluate", None)
            again = command_here(*run, *arguments, "--json")
        assert again.code == 0, again.errors
        one, other = json.loads(first.output), json.loads(again.output)
        assert other["differences"] == one["differences"]
        assert [model["kept"] for model in other["models"]] == [True] * len(one["models"])
        assert one["models"][-1]["name"] == "loaded model"
        (folder,) = (whole / "run" / "state" / "evaluations").iterdir()
        length = 12 if "--length" in arguments else 24
        split = "validation" if "--split" in arguments else "test"
        assert folder.name == f"{split}-{length}"
        assert len(read_evaluations(whole / "run", folder.name)) == len(one["models"])


def test_a_length_above_the_models_positions_is_refused(whole: Path) -> None:
    errors = refused("evaluate", whole / "run", "--bits", "5", "--length", "161")
    assert "task.length 161 is above the 160 tokens that the model can read" in errors
