"""A user's mistake gives one message that names the field, the value and what is allowed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from qsearch.errors import InputError, QsearchError
from qsearch.plugins.capabilities import TrainingCheckpoint
from qsearch.plugins.protocols import TrainerState
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import classification, small_config, small_tokenizer


def test_unknown_device_is_refused(make_trainer) -> None:
    with pytest.raises(ValidationError, match="foo"):
        make_trainer(device="foo")


def test_loss_that_is_not_finite_ends_training_before_its_state_is_kept(
    make_trainer, make_configuration
) -> None:
    trainer = make_trainer(learning_rate=1e30, max_grad_norm=1e30, steps=8, checkpoint_steps=1)
    kept: list[TrainerState] = []
    checkpoint = TrainingCheckpoint(lambda: None, kept.append)
    with pytest.raises(QsearchError, match=r"round 1: .* at step 2 of 8"):
        trainer.train_resumably([make_configuration(trainer, 0)], 1, None, checkpoint)
    assert [len(state.tensors["losses"]) for state in kept] == [1]


def test_length_above_the_models_positions_is_refused(make_trainer, table_files) -> None:
    with pytest.raises(InputError, match=r"task\.max_length 161 is above the 160 tokens"):
        make_trainer(task=classification(table_files, max_length=161)).requirements()


def test_one_validation_example_is_refused(make_trainer, table_files, tmp_path) -> None:
    (tmp_path / "one.tsv").write_text("text\tlabel\nw1 w2\tleft\n")
    with pytest.raises(InputError, match="at least 2"):
        _ = make_trainer(task=classification((table_files[0], tmp_path / "one.tsv"))).study.loaded


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Qwen2", "T5"])
def test_a_model_without_a_tokenizer_is_refused(kind, make_trainer, tmp_path) -> None:
    """transformers makes an empty one: every text would be the same."""
    # The tokenizer comes before the weights.
    small_config(kind, num_key_value_heads=2).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no tokenizer"):
        _ = make_trainer(model=tmp_path).study.loaded


@pytest.fixture
def model(bert_folder, tmp_path) -> Path:
    """A copy of the small BERT, to damage."""
    return Path(shutil.copytree(bert_folder, tmp_path / "model"))


def test_truncated_weights_are_refused(model, make_trainer) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=str(model)):
        _ = make_trainer(model=model).study.loaded


def words(*others: str) -> Tokenizer:
    known = small_tokenizer().get_vocab()
    vocabulary = {**known, **{word: len(known) + n for n, word in enumerate(others)}}
    return Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))


@pytest.mark.parametrize(
    ("others", "special", "said"),
    [
        (["w60"], {"pad_token": "[PAD]"}, "63 embeddings, .*token 'w60' has number 63"),
        ([], {"pad_token": "<pad>"}, "63 embeddings, .*token '<pad>' has number 63"),
        ([], {}, "no padding, end or unknown token"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(
    others, special, said, model, make_trainer
) -> None:
    PreTrainedTokenizerFast(tokenizer_object=words(*others), **special).save_pretrained(model)
    with pytest.raises(InputError, match=said):
        _ = make_trainer(model=model).study.loaded


def test_a_padding_token_that_text_never_has_needs_no_embedding(
    llama_folder, make_causal_task, tmp_path
) -> None:
    model = shutil.copytree(llama_folder, tmp_path / "model")
    tokenizer = small_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(model)
    loaded = make_causal_task().load_model(ModelSpec(name=str(model)), 0)
    assert loaded.tokenizer.pad_token_id == 63


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_weights_that_are_a_pickle_of_code_are_refused_without_advice_to_load_them(
    model, make_trainer, tmp_path
) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"weight": Malicious(tmp_path / "run")}, model / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickle that holds more than tensors") as refusal:
        _ = make_trainer(model=model).study.loaded
    assert "weights_only" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_corrupt_gguf_is_refused(make_trainer, tmp_path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(InputError, match="cannot be loaded"):
        make_trainer(model=tmp_path / "model.gguf").layers()


@pytest.mark.parametrize(
    "columns", [{"text": ("a", "a")}, {"text": "a", "label": "a"}, {"text": ("a", "label")}]
)
def test_a_column_named_twice_is_refused(columns) -> None:
    with pytest.raises(ValidationError, match="name a column twice"):
        classification((Path("t"), Path("v")), **columns)


def test_labels_keep_their_text(tmp_path) -> None:
    rows = "".join(f"w{n}\t{label}\n" for n, label in enumerate(["None", "NA", "²", "NA"]))
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + rows)
    assert set(classification((tmp_path / "train.tsv",) * 2).labels) == {"NA", "None", "²"}
