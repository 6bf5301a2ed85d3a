"""The paper's comparison, run on a small model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import adapter, merging, paper_runs, paper_text
from benchmarks.method_studies import study_of
from benchmarks.paper_methods import METHODS, Plan
from benchmarks.paper_runs import FULL_PRECISION, outcome_of
from qsearch.errors import InputError
from qsearch.plugins.components import build_components
from tests.coalora.conftest import write_rows

STUDY = """\
name: made
model: {{name: {model}}}
task: {{name: classification, train: {train}, validation: {validation}, test: {test}}}
quantizer: {{name: integer}}
trainer: {{name: coa-lora, rank: 4, steps: 3, batch_size: 8, warmup_steps: 1}}
search: {{rounds: 1, initial: 8, candidates: 2, segments: 10, average_bits: [2.25, 7.25]}}
"""


@pytest.fixture
def study(
    bert_folder: Path,
    table_files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    for module in (adapter, merging, paper_runs):
        monkeypatch.setattr(module, "DATA", tmp_path / "data")
    for module in (paper_runs, paper_text):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    path = tmp_path / "made.yaml"
    train, validation = table_files
    test = write_rows(tmp_path / "test.tsv", 40, 2)
    path.write_text(STUDY.format(model=bert_folder, train=train, validation=validation, test=test))
    return path


def recorded_once(outcome: Callable[..., Any]) -> Any:
    """Return an outcome, which is recorded when it was measured, and not before."""
    assert outcome(recorded=True) is None
    found = outcome()
    assert found is not None
    assert outcome(recorded=True) == found
    return found


@pytest.fixture
def plan(study: Path) -> Plan:
    return Plan(
        study=study,
        model="made",
        megabytes=(0.1, 0.2),
        bits=(3.0, 4.0),
        bits_alone=(3.5, 4.5),
        seeds=dict.fromkeys(METHODS, 1),
        better=(0.1,),
        metric=("accuracy", "points", 100),
    )


def test_every_method_and_every_variant_is_a_valid_study(study: Path, plan: Plan) -> None:
    for entries in (plan.entries, adapter.variants_of(study)):
        for method in entries:
            build_components(study_of(study, method, 0, entries))


@pytest.mark.parametrize("method", ["qlora", "coa-lora", "ptq"])
def test_a_method_serves_every_size_and_is_recorded(plan: Plan, method: str) -> None:
    outcome = recorded_once(partial(outcome_of, plan, method, 0))
    sizes = outcome.served[: len(plan.megabytes)]
    assert [one.name for one in sizes] == ["0.1 MB", "0.2 MB"]
    for one, megabytes in zip(sizes, plan.megabytes, strict=True):
        assert one.nbytes <= 1e6 * megabytes
    # One LoRA for each configuration has none for the weights that are not quantized.
    rest = [one.name for one in outcome.served[len(sizes) :]]
    assert rest == ([] if method == "qlora" else [FULL_PRECISION])
    for one in outcome.served:
        scores = outcome.examples[one.name]
        assert np.average(scores.losses, weights=scores.weights) == pytest.approx(one.loss)
        assert np.mean(scores.metrics["accuracy"]) == pytest.approx(one.metrics["accuracy"][0])
    assert {"processor", "threads", "commit"} <= outcome.machine.keys()
    plan.study.write_text(plan.study.read_text().replace("steps: 3", "steps: 4"))
    with pytest.raises(InputError, match="another plan"):
        outcome_of(plan, method, 0, recorded=True)


@pytest.mark.parametrize("variant", ["coa-lora", "lora-for-each"])
def test_a_variant_of_the_adapter_is_trained_once_and_recorded(
    study: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    monkeypatch.setattr(adapter, "CONFIGURATIONS", 4)
    found = recorded_once(partial(adapter.outcome_of, study, variant, 0))
    assert len(found["test_loss"]) == len(found["validation_metric"]) == len(adapter.LEVELS)
    assert found["average_bits"] == sorted(found["average_bits"])


def test_each_way_of_merging_is_measured_once_and_recorded(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "CONFIGURATIONS", 4)
    changes = ("trainer.learning_rate=1e-2", "trainer.eval_precision=float32")
    found = recorded_once(partial(merging.outcome_of, study, 0, changes))
    assert found["average_bits"] == sorted(found["average_bits"])
    for studied, one in zip(found["studied_loss"], found["measured"], strict=True):
        assert one["logits_apart"] < 1e-4
        losses = {way: figures["loss"] for way, figures in one["ways"].items()}
        assert list(losses) == list(merging.WAYS)
        assert losses[merging.ADAPTED] == pytest.approx(studied, abs=1e-4)
        assert len(set(losses.values())) == len(losses)
