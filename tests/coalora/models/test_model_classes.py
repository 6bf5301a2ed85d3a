"""Each supported model class is trained, evaluated and exported, small and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from qsearch_coalora.methods.coa_lora import CoALoRATrainer

from tests.coalora.conftest import head_of, headed_class, small_config, small_tokenizer
from tests.coalora.exported import export, loaded_logits

GROUPED = {"num_key_value_heads": 1}
HEADS = GROUPED | {"head_dim": 16}
MORE = {"Qwen3": HEADS, "Gemma3Text": HEADS, "Bert": {}, "Roberta": {}, "MPNet": {}}
"""What classes have besides; the others, grouped keys and values."""


@pytest.fixture
def make(tmp_path: Path, make_trainer, make_causal_task, monkeypatch) -> Any:
    """Return a maker of trainers on a random model of a class; their options as keywords."""
    # Some classes rebuild their tokenizer from a vocabulary of bytes.
    for module in ("causal_lm", "classification"):
        path = f"qsearch_coalora.tasks.{module}.load_tokenizer"
        monkeypatch.setattr(path, lambda model: small_tokenizer())

    def maker(name: str, **options: object) -> CoALoRATrainer:
        config = small_config(name, pad_token_id=0, **MORE.get(name, GROUPED))
        torch.manual_seed(0)
        headed_class(name)(config).save_pretrained(tmp_path / name)
        task = make_causal_task() if head_of(name) == "CausalLM" else None
        fields = {"steps": 3, "batch_size": 4} | options
        return make_trainer(model=tmp_path / name, task=task, **fields)

    return maker


@pytest.mark.parametrize(
    "name", ["Bert", "Roberta", "MPNet", "Llama", "Qwen2", "Qwen3", "Mistral", "Gemma3Text"]
)
def test_a_model_class_is_trained_and_exported(
    name: str, make, make_configuration, tmp_path: Path
) -> None:
    trainer = make(name)
    chosen = [make_configuration(trainer, index) for index in range(2)]
    before = trainer.evaluate(chosen, "validation")
    trainer.train(chosen, 1)
    after = trainer.evaluate(chosen, "validation")
    assert all(new.loss != old.loss for new, old in zip(after, before, strict=True))
    assert all(torch.isfinite(torch.tensor(evaluation.loss)) for evaluation in after)
    batch = next(iter(trainer.study.task.batches("validation", 4)))
    export(trainer, chosen[0], tmp_path / "out", "merged")
    trainer.place(chosen[0])
    with torch.no_grad():
        expected = trainer.study.adapted.logits(batch)
    kind = getattr(transformers, f"AutoModelFor{head_of(name)}")
    loaded = kind.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(loaded_logits(loaded, batch), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradient_checkpointing_changes_no_gradient(
    precision: str, make, make_configuration
) -> None:
    states, passes = [], [0, 0]
    for checkpointing in (False, True):
        trainer = make("Llama", gradient_checkpointing=checkpointing, precision=precision, steps=2)

        def count(module: torch.nn.Module, inputs: object, checkpointing=checkpointing) -> None:
            passes[checkpointing] += 1

        trainer.study.adapted.lora_layers[0].register_forward_pre_hook(count)
        trainer.train([make_configuration(trainer, index) for index in range(2)], 1)
        states.append(trainer.state().tensors)
    assert passes[1] == 2 * passes[0]
    plain, checkpointed = states
    for key, value in plain.items():
        torch.testing.assert_close(value, checkpointed[key], rtol=1e-4, atol=1e-6)
