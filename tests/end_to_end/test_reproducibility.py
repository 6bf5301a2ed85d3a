"""The same seed on the same machine gives the same study, in another process; real MiniLM."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from pandas.testing import assert_frame_equal

from benchmarks.reproducibility import tensors_of
from qsearch.storage.study_record import RoundRecord, read_study
from tests.end_to_end.conftest import command, run, run_new, small_study
from tests.engine.fake_study import results


@pytest.fixture(scope="module")
def again(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the small study, run once more by another process."""
    directory = tmp_path_factory.mktemp("again") / "run"
    run_new(small_study(directory))
    return directory


def rounds_of(directory: Path) -> list[RoundRecord]:
    """The study's rounds but for the time that they took."""
    times = {"train_seconds": 0.0, "evaluate_seconds": 0.0, "search_seconds": 0.0}
    rounds = []
    for entry in read_study(directory).rounds:
        assert entry.full_precision is not None
        evaluation = replace(entry.full_precision, seconds=0.0)
        rounds.append(replace(entry, full_precision=evaluation, **times))
    return rounds


def test_same_seed_gives_the_same_trials(study: Path, again: Path) -> None:
    assert_frame_equal(results(again), results(study), check_exact=True)


def test_same_seed_gives_the_same_sets_hypervolumes_and_training_losses(
    study: Path, again: Path
) -> None:
    assert rounds_of(again) == rounds_of(study)


def test_same_seed_gives_the_same_tensors_bit_for_bit(study: Path, again: Path) -> None:
    first, second = tensors_of(study), tensors_of(again)
    assert {name.partition(" ")[0] for name in first} >= {
        "adapter-1.safetensors",
        "adapter-2.safetensors",
        "quantization_error.safetensors",
        "sensitivity-2.safetensors",
    }
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


# What it ran on


def test_the_study_records_its_versions_machine_and_threads(study: Path) -> None:
    (session,) = read_study(study).sessions
    for name in ("torch", "transformers", "peft", "tokenizers", "safetensors", "botorch"):
        assert session.versions[name] == metadata.version(name)
    assert session.machine.threads == 1
    assert session.machine.instructions == torch.backends.cpu.get_cpu_capability()


def test_report_and_export_have_the_digests(study: Path, tmp_path: Path) -> None:
    (session,) = read_study(study).sessions
    page = (study / "report.html").read_text(encoding="utf-8")
    sums = [*session.inputs.model.values(), *(d.sha256 for d in session.inputs.data.values())]
    assert len(sums) == len(session.inputs.model) + 2
    assert all(f"<code>{digest}</code>" in page for digest in sums)
    run(command("export", study, "--bits", "3.0", "--to", tmp_path / "adapter"))
    facts = json.loads((tmp_path / "adapter" / "qsearch.json").read_text())
    assert [*facts["model_sha256"].values(), *facts["examples_sha256"].values()] == sums
