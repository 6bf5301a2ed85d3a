"""Each supported model class is trained, evaluated and exported, small and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.tasks.classification import Classification

from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import small_tokenizer

SMALL = {
    "vocab_size": 63,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 160,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 1}
CAUSAL = {
    "Llama": GROUPED,
    "Qwen2": GROUPED,
    "Qwen3": GROUPED | {"head_dim": 16},
    "Mistral": GROUPED,
}
ENCODERS = {"Bert": {}, "Roberta": {}}


@pytest.fixture(autouse=True)
def _one_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every class the tokenizer of words: some rebuild theirs from a vocabulary of bytes."""
    for module in ("causal_lm", "classification"):
        path = f"qsearch_coalora.tasks.{module}.load_tokenizer"
        monkeypatch.setattr(path, lambda model: small_tokenizer())


def folder_of(name: str, folder: Path, head: str, more: dict[str, int]) -> ModelSpec:
    """Write a random model of a class."""
    config = getattr(transformers, f"{name}Config")(**SMALL, **more)
    torch.manual_seed(0)
    getattr(transformers, f"{name}{head}")(config).save_pretrained(folder)
    return ModelSpec(name=str(folder))


def trained(spec: ModelSpec, task: Any, quantizer: Any, **options: object) -> CoALoRATrainer:
    fields = {"rank": 4, "steps": 3, "batch_size": 4, "warmup_steps": 1} | options
    return CoALoRATrainer(CoALoRATrainer.Options(**fields), spec, task, quantizer, 0)


def require_whole(
    trainer: CoALoRATrainer, make_configuration: Any, folder: Path, auto_class: str
) -> None:
    """Require that training changes losses, and that an exported model gives the same logits."""
    chosen = [make_configuration(trainer, index) for index in range(2)]
    before = trainer.evaluate(chosen, "validation")
    trainer.train(chosen, 1)
    after = trainer.evaluate(chosen, "validation")
    assert all(new.loss != old.loss for new, old in zip(after, before, strict=True))
    assert all(torch.isfinite(torch.tensor(evaluation.loss)) for evaluation in after)
    batch = next(iter(trainer.study.task.batches("validation", 4)))
    with torch.no_grad():
        trainer.study.adapted.use(chosen[0])
        expected = trainer.study.adapted.logits(batch)
        trainer.export(chosen[0], folder, "merged")
        model = getattr(transformers, auto_class).from_pretrained(folder)
        found = model(**{name: one for name, one in batch.items() if name != "labels"}).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_trained_and_exported(
    name: str, tmp_path: Path, table_files, quantizer, make_configuration
) -> None:
    spec = folder_of(name, tmp_path, "ForSequenceClassification", ENCODERS[name])
    train, validation = table_files
    task = Classification(Classification.Options(train=train, validation=validation))
    trainer = trained(spec, task, quantizer)
    out = tmp_path / "out"
    require_whole(trainer, make_configuration, out, "AutoModelForSequenceClassification")


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_is_trained_and_exported(
    name: str, tmp_path: Path, quantizer, make_causal_task, make_configuration
) -> None:
    spec = folder_of(name, tmp_path, "ForCausalLM", CAUSAL[name])
    trainer = trained(spec, make_causal_task(), quantizer)
    require_whole(trainer, make_configuration, tmp_path / "out", "AutoModelForCausalLM")


def test_theta_alone_trains_a_causal_model(
    llama_folder: Path, tmp_path: Path, quantizer, make_causal_task, make_configuration
) -> None:
    spec = ModelSpec(name=str(llama_folder))
    trainer = trained(spec, make_causal_task(), quantizer, residual_rank=4)
    require_whole(trainer, make_configuration, tmp_path / "out", "AutoModelForCausalLM")


@pytest.mark.parametrize(
    ("name", "precision"),
    [("Llama", "float32"), ("Llama", "bfloat16"), ("Qwen3", "float32"), ("Mistral", "float32")],
)
def test_gradient_checkpointing_changes_no_gradient(
    name: str, precision: str, tmp_path: Path, quantizer, make_causal_task, make_configuration
) -> None:
    spec = folder_of(name, tmp_path, "ForCausalLM", CAUSAL[name])
    states = []
    for checkpointing in (False, True):
        options = {"gradient_checkpointing": checkpointing, "precision": precision}
        trainer = trained(spec, make_causal_task(), quantizer, **options)
        calls = count_forward_passes(trainer)
        trainer.train([make_configuration(trainer, index) for index in range(3)], 1)
        states.append((trainer.state().tensors, calls[0]))
    (plain, once), (checkpointed, twice) = states
    assert twice == 2 * once
    for key, value in plain.items():
        torch.testing.assert_close(value, checkpointed[key], rtol=1e-4, atol=1e-6)


def count_forward_passes(trainer: CoALoRATrainer) -> list[int]:
    calls = [0]

    def count(module: torch.nn.Module, inputs: object) -> None:
        calls[0] += 1

    trainer.study.adapted.lora_layers[0].register_forward_pre_hook(count)
    return calls
