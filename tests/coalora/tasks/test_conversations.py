"""Instruction data: the loss is over what the assistant says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.shared_lora import SharedLoRATrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.conversations import encode_rows
from transformers import PreTrainedTokenizerFast

from qsearch.errors import InputError
from tests.coalora.conftest import small_tokenizer

PLAIN = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} [CLS] {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ m['role'] }} {% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }} [CLS] {% endgeneration %}"
    "{% else %}{{ m['content'] }} [CLS] {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
REWRITES = "w{{ messages | length }} " + PLAIN
CHAT = [
    {"role": "user", "content": "w1 w2"},
    {"role": "assistant", "content": "w3"},
    {"role": "user", "content": "w4"},
    {"role": "assistant", "content": "w5 w6"},
]


def tokenizer_of(template: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer of words whose chat template is given; roles are words too."""
    tokenizer = small_tokenizer()
    tokenizer.add_tokens(["user", "assistant"])
    tokenizer.add_special_tokens({"eos_token": "[CLS]"})
    tokenizer.chat_template = template
    return tokenizer


def predicted(tokenizer: Any, tokens: Any, labels: Any) -> str:
    """The tokens that are predicted, as text; each must be the token itself."""
    kept = labels != -100
    assert torch.equal(labels[kept], tokens[kept])
    return " ".join(tokenizer.convert_ids_to_tokens(tokens[kept].tolist()))


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["by prefixes", "marked"])
def test_only_what_the_assistant_says_is_predicted(template: str) -> None:
    tokenizer = tokenizer_of(template)
    sequences = encode_rows(tokenizer, [(CHAT,)], 64, "data")
    ((tokens,), (labels,)) = sequences.tokens, sequences.labels
    assert predicted(tokenizer, tokens, labels) == "w3 [CLS] w5 w6 [CLS]"
    assert sequences.predicted == 5
    written = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=True)["input_ids"]
    assert tokens.tolist() == written


def test_what_is_longer_than_the_length_is_cut_and_left_out_if_nothing_is_predicted() -> None:
    tokenizer = tokenizer_of(PLAIN)
    late = [{"role": "user", "content": "w1 " * 20}, CHAT[1]]
    sequences = encode_rows(tokenizer, [(CHAT,), (late,)], 10, "data")
    (tokens,) = sequences.tokens
    assert len(tokens) == 10
    with pytest.raises(InputError, match=r"data: none of its 1 examples .* task\.length 10"):
        encode_rows(tokenizer, [(late,)], 10, "data")


def test_a_completion_is_predicted_with_its_end_and_its_prompt_is_not() -> None:
    tokenizer = tokenizer_of(None)
    sequences = encode_rows(tokenizer, [("w1 w2", "w3 w4")], 64, "data")
    ((tokens,), (labels,)) = sequences.tokens, sequences.labels
    assert predicted(tokenizer, tokens, labels) == "w3 w4 [CLS]"
    assert len(tokens) == 5


@pytest.mark.parametrize(
    ("template", "row", "message"),
    [
        (None, CHAT, "tokenizer has no chat template.* task.prompt and task.completion"),
        (REWRITES, CHAT, "example 1: the chat template writes a conversation otherwise"),
        ("{{ raise_exception('odd') }}", CHAT, "example 1: the chat template refuses it:.*odd"),
        (PLAIN, "text", "example 1: messages must be a list of objects.* not 'text'"),
        (PLAIN, [{"role": "user"}], "messages must be a list of objects"),
        (PLAIN, CHAT[:1], r"no message has the role 'assistant'; the roles are \['user'\]"),
    ],
)
def test_what_cannot_be_a_conversation_is_refused(
    template: str | None, row: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        encode_rows(tokenizer_of(template), [(row,)], 64, "data")


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    path = tmp_path / "chat.jsonl"
    rows = [
        [{"role": "user", "content": f"w{n}"}, {"role": "assistant", "content": "w9 " * (n + 1)}]
        for n in range(6)
    ]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def causal(**options: object) -> CausalLanguageModelling:
    return CausalLanguageModelling(CausalLanguageModelling.Options(**options))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_examples_are_padded_and_weigh_by_what_is_predicted(chat_file: Path, suffix: str) -> None:
    if suffix == "parquet":
        pd.read_json(chat_file, lines=True).to_parquet(chat_file.with_suffix(".parquet"))
    path = chat_file.with_suffix(f".{suffix}")
    task = causal(train=path, validation=path, messages="messages", length=64)
    task.require_data()
    tokenizer = tokenizer_of(PLAIN)
    task.prepare(tokenizer)
    batches = list(task.batches("validation", 4))
    assert [len(batch["labels"]) for batch in batches] == [4, 2]
    weights = torch.cat(
        [task.score(torch.zeros(*batch["labels"].shape, 70), batch).weights for batch in batches]
    )
    assert weights.tolist() == [2, 3, 4, 5, 6, 7]  # A word more in each, and the end.
    assert task.examples("validation") == 27
    for batch in batches:
        padding = batch["attention_mask"] == 0
        assert (batch["labels"][padding] == -100).all()
        assert (batch["input_ids"][padding] == tokenizer.pad_token_id).all()
    assert batches[0]["attention_mask"].sum(1).tolist() == [6, 7, 8, 9]


def test_what_is_ignored_changes_no_loss(chat_file: Path) -> None:
    task = causal(train=chat_file, validation=chat_file, messages="messages", length=64)
    task.prepare(tokenizer_of(PLAIN))
    (batch,) = task.batches("validation", 8)
    torch.manual_seed(0)
    logits = torch.randn(*batch["labels"].shape, 70)
    before = task.score(logits, batch)
    ignored = torch.nn.functional.pad(batch["labels"][:, 1:] == -100, (0, 1), value=True)
    changed = torch.where(ignored[..., None], logits + 5 * torch.randn(70), logits)
    after = task.score(changed, batch)
    torch.testing.assert_close(after.losses, before.losses)
    targets = batch["labels"][:, 1:]
    assert torch.equal(before.weights, (targets != -100).sum(1).float())


def test_a_trainer_learns_from_conversations(
    chat_file: Path, make_trainer, make_configuration, llama_folder: Path, monkeypatch
) -> None:
    tokenizer = small_tokenizer()
    tokenizer.chat_template = PLAIN
    path = "qsearch_coalora.tasks.causal_lm.load_tokenizer"
    monkeypatch.setattr(path, lambda model: tokenizer)
    task = causal(train=chat_file, validation=chat_file, messages="messages", length=32)
    trainer = make_trainer(
        method=CoALoRATrainer, model=llama_folder, task=task, steps=20, eval_batch_size=2
    )
    chosen = [make_configuration(trainer, 0)]
    (before,) = trainer.evaluate(chosen, "validation")
    trainer.train(chosen, 1)
    (after,) = trainer.evaluate(chosen, "validation")
    assert after.loss < before.loss
    # Batches are of unequal length; only what is predicted is compared with the loaded model.
    exact = trainer.evaluate_full_precision("validation")
    assert 0 <= before.metrics["kl"].value < after.metrics["kl"].value
    assert exact.metrics["kl"].value > 0


@pytest.fixture
def clipped(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The norm of the gradient of each training step."""
    clip, norms = torch.nn.utils.clip_grad_norm_, []

    def note(*arguments: Any) -> torch.Tensor:
        norm = clip(*arguments)
        norms.append(norm.item())
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", note)
    return norms


def test_a_training_step_weighs_by_what_is_predicted_as_evaluation_does(
    chat_file: Path, make_trainer, make_configuration, llama_folder: Path, monkeypatch, clipped
) -> None:
    """However the examples of a step are shared among batches and configurations."""
    tokenizer = small_tokenizer()
    tokenizer.chat_template = PLAIN
    path = "qsearch_coalora.tasks.causal_lm.load_tokenizer"
    monkeypatch.setattr(path, lambda model: tokenizer)
    for options in (
        {"batch_size": 6, "configurations_per_step": 1},
        {"batch_size": 6, "configurations_per_step": 4},
        {"batch_size": 2, "configurations_per_step": 2, "accumulation_steps": 3},
    ):
        task = causal(train=chat_file, validation=chat_file, messages="messages", length=32)
        trainer = make_trainer(
            method=SharedLoRATrainer, model=llama_folder, task=task, steps=1, **options
        )
        chosen = [make_configuration(trainer, 0)]
        (before,) = trainer.evaluate(chosen, "validation")
        (loss,) = trainer.train(chosen, 1).losses
        assert loss == pytest.approx(before.loss, rel=1e-5)
        # Where examples counted alike, it would be another.
        assert sum(before.examples.losses) / 6 != pytest.approx(before.loss, rel=1e-4)
    assert clipped == pytest.approx([clipped[0]] * 3, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "p"}, "prompt and completion are given together"),
        ({"messages": "m", "prompt": "p", "completion": "c"}, "messages, or prompt and completion"),
        ({"messages": "m", "train_tokens": 9}, "train_tokens is not for messages.*train_examples"),
        ({"validation_examples": 9}, "validation_examples is not for packed text"),
    ],
)
def test_options_of_other_examples_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        causal(train="a.jsonl", validation="b.jsonl", **options)


def test_a_limit_takes_a_fixed_subset(chat_file: Path) -> None:
    task = causal(train=chat_file, validation=chat_file, messages="messages", validation_examples=3)
    assert task.workload().evaluated_examples == 3
    task.prepare(tokenizer_of(PLAIN))
    (batch,) = task.batches("validation", 8)
    assert len(batch["labels"]) == 3
    first, second = (
        causal(train=chat_file, validation=chat_file, messages="messages") for _ in range(2)
    )
    for each in (first, second):
        each.prepare(tokenizer_of(PLAIN))
    assert first.data_digests() == second.data_digests()
    assert first.data_digests()["train"].count == 6
    assert task.data_digests()["validation"] != first.data_digests()["validation"]
