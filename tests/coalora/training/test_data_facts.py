"""Exports by what a study kept of its data: the same ones, without the data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.training import data_facts
from qsearch_quantizers.integer.quantizer import Integer
from torch import Tensor

from qsearch.errors import InputError
from qsearch.plugins.protocols import TrainerState
from qsearch.plugins.registry import load_plugin
from qsearch.space.configuration import Configuration
from qsearch.spec.sections import ModelSpec
from qsearch.storage.checkpoints import read_data_facts, write_data_facts
from tests.coalora.conftest import classification, write_rows

GPTQ = {"bits": (3, 4), "group_size": (32,), "rounding": "gptq"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "train.tsv", 40, 0)
    write_rows(tmp_path / "data" / "validation.tsv", 16, 1)
    return tmp_path / "data"


@pytest.fixture
def make(make_trainer, data: Path) -> Callable[..., AdapterTrainer]:
    """Return a maker of trainers on files that a test may delete."""

    def make(method: str = "coa-lora", **options: Any) -> AdapterTrainer:
        task = classification((data / "train.tsv", data / "validation.tsv"))
        steps = {"steps": 2, "calibration_batches": 2}
        return make_trainer(method=load_plugin("trainers", method), task=task, **steps | options)

    return make


def exported(trainer: AdapterTrainer, configuration: Configuration) -> dict[str, Tensor]:
    """Everything that exporters write of a configuration."""
    job = trainer.export_job(configuration)
    tensors = dict(job.state())
    for position, layer in enumerate(trainer.layers()):
        for name, tensor in job.quantized(position).tensors.items():
            tensors[f"{layer.name}.{name}"] = tensor
    for number, (A, B) in enumerate(job.factors()):
        tensors |= {f"{number}.A": A, f"{number}.B": B}
    return tensors


def kept(trainer: AdapterTrainer, directory: Path) -> tuple[TrainerState, TrainerState]:
    """What a study has of a trainer: its state, and the facts as they are read from their file."""
    (directory / "state").mkdir()
    write_data_facts(directory, trainer.data_facts())
    facts = read_data_facts(directory)
    assert facts is not None
    return trainer.state(), facts


@pytest.mark.parametrize(
    ("method", "gptq"),
    [("coa-lora", False), ("coa-lora", True), ("ptq", True), ("lq-lora", False), ("qlora", False)],
)
def test_exports_without_the_data_are_the_same_to_the_bit(
    make, make_configuration, data: Path, tmp_path: Path, method: str, gptq: bool
) -> None:
    plugin = Integer(Integer.Options(**GPTQ)) if gptq else None
    ran = make(method, plugin=plugin)
    configuration = make_configuration(ran, 0)
    ran.train([configuration], 1)
    expected = exported(ran, configuration)
    state, facts = kept(ran, tmp_path)
    shutil.rmtree(data)
    trainer = make(method, plugin=plugin)
    trainer.use_data_facts(facts)
    trainer.load_state(state)
    found = exported(trainer, configuration)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert trainer.export_job(configuration).labels == ("left", "right")


def test_layers_with_the_same_inputs_are_kept_once(make) -> None:
    facts = make().data_facts()
    (places,) = facts.metadata["measured"].values()
    query, key, output = (
        places[f"encoder.layer.0.attention.{name}.basis"]
        for name in ("self.query", "self.key", "output.dense")
    )
    assert query == key != output


def test_what_was_too_large_to_keep_is_measured_again_or_its_data_named(
    make, make_configuration, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = make()
    expected = exported(ran, make_configuration(ran, 0))
    monkeypatch.setattr(data_facts, "MAX_BYTES", 1000)
    state, facts = kept(ran, tmp_path)
    assert not facts.tensors
    for is_there in (True, False):
        trainer = make()
        trainer.use_data_facts(facts)
        if is_there:
            trainer.load_state(state)
            found = exported(trainer, make_configuration(ran, 0))
            assert all(torch.equal(found[name], expected[name]) for name in expected)
            shutil.rmtree(data)
            continue
        with pytest.raises(InputError, match=r"train\.tsv does not exist; it is needed .* norms"):
            trainer.load_state(state)


def test_labels_are_kept_in_the_order_of_the_models_outputs(
    make, bert_folder: Path, data: Path
) -> None:
    ran = make().study
    ran.loaded.module.config.id2label = {0: "right", 1: "left"}
    ran.loaded.module.save_pretrained(data.parent / "trained")
    ran.loaded.tokenizer.save_pretrained(data.parent / "trained")
    model = ran.model.model_copy(update={"name": str(data.parent / "trained")})
    files = (data / "train.tsv", data / "validation.tsv")
    first, second = classification(files), classification(files)
    first.load_model(model, 0)
    assert first.facts() == {"labels": ["right", "left"]}
    shutil.rmtree(data)
    second.use_facts(first.facts())
    assert second.load_model(model, 0).module.config.id2label == {0: "right", 1: "left"}
    assert second.labels == ("right", "left")


def test_text_is_read_when_batches_are_asked_for(
    make_causal_task, llama_folder: Path, tmp_path: Path
) -> None:
    model = ModelSpec(name=str(llama_folder))
    task, expected = make_causal_task(), make_causal_task()
    expected.load_model(model, 0)
    text = (tmp_path / "text.txt").read_text()
    (tmp_path / "text.txt").unlink()
    task.use_facts(expected.facts())
    task.load_model(model, 0)
    (tmp_path / "text.txt").write_text(text)
    for batch, own in zip(expected.batches("train", 4), task.batches("train", 4), strict=True):
        assert torch.equal(batch["input_ids"], own["input_ids"])
