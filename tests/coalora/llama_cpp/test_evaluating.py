"""Configurations evaluated in llama.cpp, next to what PyTorch computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from qsearch_coalora.llama_cpp.evaluating import evaluate_files, written
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.gguf.quantizer import GGUF
from torch.nn.functional import cross_entropy

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration, LayerConfiguration
from tests.coalora.export.small_gguf import write_small
from tests.coalora.exported import engine_logits

pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
pytest.importorskip("gguf")

KINDS = ("Q4_0", "Q8_0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a text, and examples of different lengths."""
    folder = tmp_path_factory.mktemp("files")
    write_small(folder / "small.gguf", 64, 128)
    (folder / "text.txt").write_text("The film was good and the plot was fine. " * 20)
    rows = [{"prompt": "The plot", "completion": " was fine" * (n % 4 + 1)} for n in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def study(folder: Path, make_trainer: Any) -> Callable[..., Any]:
    def make(method: Any = PTQTrainer, task: Any = None, **options: object) -> Any:
        text = folder / "text.txt"
        values = {"train": text, "validation": text, "length": 32} if task is None else task
        own = {"fine_tune": False} if method is PTQTrainer else {}
        return make_trainer(
            method=method,
            model=folder / "small.gguf",
            task=CausalLanguageModelling(CausalLanguageModelling.Options(**values)),
            plugin=GGUF(GGUF.Options(types=KINDS, importance="none")),
            eval_batch_size=4,
            **own | options,
        )

    return make


def by_turns(trainer: Any) -> Configuration:
    layers = enumerate(trainer.layers())
    return Configuration(
        {layer.name: LayerConfiguration({"type": KINDS[n % 2]}) for n, layer in layers}
    )


def started(trainer: Any) -> Any:
    trainer.train([by_turns(trainer)], 1)
    trainer.load_state(trainer.state())
    return trainer


def file_losses(trainer: Any) -> list[float]:
    """The mean loss of each sequence, from logits of the file."""
    with written(trainer.export_job(by_turns(trainer))) as files:
        losses = []
        for batch in trainer.study.task.batches("validation", 1):
            tokens, labels = batch["input_ids"][0], batch["labels"][0]
            logits = engine_logits(files.model, tokens.tolist(), files.adapter)
            losses.append(float(cross_entropy(logits[:-1], labels[1:])))
        return losses


@pytest.mark.parametrize("method", [PTQTrainer, CoALoRATrainer], ids=["ptq", "adapter"])
def test_the_loss_is_that_of_the_files(study: Any, method: Any) -> None:
    """With the adapter's file where there is one."""
    trainer = started(study(method))
    own = trainer.evaluate([by_turns(trainer)], "validation")[0]
    result = trainer.evaluate_in("llama.cpp", by_turns(trainer), "validation")
    assert result.evaluation.examples.losses == pytest.approx(file_losses(trainer), abs=1e-5)
    assert result.evaluation.loss != own.loss
    assert result.evaluation.loss == pytest.approx(own.loss, abs=0.01)
    for name in ("kl", "same_top", "perplexity"):
        value = result.evaluation.metrics[name].value
        assert value == pytest.approx(own.metrics[name].value, rel=0.1, abs=0.01)
    assert result.speed.generation_tokens_per_second > 0
    with written(trainer.export_job(by_turns(trainer))) as files:
        assert (files.adapter is not None) == (method is CoALoRATrainer)
        assert result.file_bytes == files.nbytes


def test_examples_of_other_lengths_are_not_padded(study: Any, folder: Path) -> None:
    rows = folder / "rows.jsonl"
    columns = {"prompt": "prompt", "completion": "completion", "length": 48}
    trainer = started(study(task={"train": rows, "validation": rows, **columns}))
    own = trainer.evaluate([by_turns(trainer)], "validation")[0]
    with written(trainer.export_job(by_turns(trainer))) as files:
        reference = trainer.reference("validation")
        found = evaluate_files(trainer.study, files, "validation", reference)
    assert found.examples.weights == own.examples.weights
    assert len(set(found.examples.weights)) == 4
    torch.testing.assert_close(
        torch.tensor(found.examples.losses), torch.tensor(own.examples.losses), atol=0.02, rtol=0
    )
    assert found.metrics["kl"].value == pytest.approx(own.metrics["kl"].value, abs=0.01)


def test_a_search_can_evaluate_the_files(study: Any) -> None:
    trainer = started(study(evaluate_in="llama.cpp"))
    found = trainer.evaluate([by_turns(trainer)], "validation")[0]
    assert found.examples.losses == pytest.approx(file_losses(trainer), abs=1e-5)
    assert found.metrics["kl"].value > 0
    # What it is compared with is computed by PyTorch, as ever.
    assert trainer.evaluate_full_precision("validation").metrics["kl"].value < 1e-6


def test_studies_that_llama_cpp_cannot_run_are_refused(
    study: Any, make_trainer: Any, make_causal_task: Any, llama_folder: Path
) -> None:
    study(evaluate_in="llama.cpp").requirements()
    classifier = make_trainer(method=PTQTrainer, evaluate_in="llama.cpp")
    with pytest.raises(InputError, match=r"trainer\.evaluate_in llama\.cpp: .*'causal-lm'"):
        classifier.requirements()
    other = make_trainer(method=PTQTrainer, model=llama_folder, task=make_causal_task())
    with pytest.raises(InputError, match="holds ggml's types"):
        other.require_engine("llama.cpp")
