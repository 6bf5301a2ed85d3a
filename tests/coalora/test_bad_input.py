"""A user's mistake gives one message that names the field, the value and what is allowed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers
from pydantic import ValidationError
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.tasks.classification import Classification
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from qsearch.errors import InputError, QsearchError
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import small_tokenizer


def trainer_of(
    model: str, files: tuple[Path, Path], quantizer: object, **task_options: object
) -> CoALoRATrainer:
    train, validation = files
    task = Classification(
        Classification.Options(train=train, validation=validation, **task_options)
    )
    options = CoALoRATrainer.Options(rank=4, steps=2, batch_size=8)
    return CoALoRATrainer(options, ModelSpec(name=model), task, quantizer, 0)


def test_unknown_device_is_refused(make_trainer) -> None:
    with pytest.raises(ValidationError, match="foo"):
        make_trainer(device="foo")


def test_loss_that_is_not_finite_ends_training_before_its_state_is_kept(
    make_trainer, make_configuration
) -> None:
    trainer = make_trainer(learning_rate=1e30, max_grad_norm=1e30, steps=8)
    with pytest.raises(QsearchError, match="round 1"):
        trainer.train([make_configuration(trainer, 0)], 1)


def test_length_above_the_models_positions_is_refused(bert_folder, table_files, quantizer) -> None:
    trainer = trainer_of(str(bert_folder), table_files, quantizer, max_length=161)
    with pytest.raises(InputError, match=r"task\.max_length 161 is above the 160 tokens"):
        trainer.requirements()


def test_one_validation_example_is_refused(bert_folder, table_files, quantizer, tmp_path) -> None:
    (tmp_path / "one.tsv").write_text("text\tlabel\nw1 w2\tleft\n")
    files = (table_files[0], tmp_path / "one.tsv")
    with pytest.raises(InputError, match="at least 2"):
        _ = trainer_of(str(bert_folder), files, quantizer).study.loaded


def test_truncated_weights_are_refused(bert_folder, table_files, quantizer, tmp_path) -> None:
    shutil.copytree(bert_folder, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=str(tmp_path / "model")):
        _ = trainer_of(str(tmp_path / "model"), table_files, quantizer).study.loaded


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Qwen2", "T5"])
def test_a_model_without_a_tokenizer_is_refused(kind, table_files, quantizer, tmp_path) -> None:
    """transformers makes an empty one: every text would be the same."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=63,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        max_position_embeddings=200,
    )
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no tokenizer"):
        trainer_of(str(tmp_path), table_files, quantizer).study.loaded  # noqa: B018


@pytest.mark.parametrize("added", ["token", "padding"])
def test_a_tokenizer_of_another_model_is_refused(
    added, bert_folder, table_files, quantizer, tmp_path
) -> None:
    shutil.copytree(bert_folder, tmp_path / "model")
    tokenizer = small_tokenizer()
    if added == "padding":
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    else:
        vocabulary = {**tokenizer.get_vocab(), "w60": 63}
        words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
        )
    tokenizer.save_pretrained(tmp_path / "model")
    name = "<pad>" if added == "padding" else "w60"
    with pytest.raises(InputError, match=rf"63 embeddings, .*token '{name}' has number 63"):
        trainer_of(str(tmp_path / "model"), table_files, quantizer).study.loaded  # noqa: B018


def test_a_tokenizer_that_cannot_pad_is_refused(
    bert_folder, table_files, quantizer, tmp_path
) -> None:
    shutil.copytree(bert_folder, tmp_path / "model")
    words = Tokenizer(models.WordLevel(small_tokenizer().get_vocab(), unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="no padding, end or unknown token"):
        trainer_of(str(tmp_path / "model"), table_files, quantizer).study.loaded  # noqa: B018


def test_a_padding_token_that_text_never_has_needs_no_embedding(
    llama_folder, make_causal_task, tmp_path
) -> None:
    shutil.copytree(llama_folder, tmp_path / "model")
    tokenizer = small_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(tmp_path / "model")
    loaded = make_causal_task().load_model(ModelSpec(name=str(tmp_path / "model")), 0)
    assert loaded.tokenizer.pad_token_id == 63


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_weights_that_are_a_pickle_of_code_are_refused_without_advice_to_load_them(
    bert_folder, table_files, quantizer, tmp_path
) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bert_folder / name, tmp_path)
    torch.save({"weight": Malicious(tmp_path / "run")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickle that holds more than tensors") as refusal:
        trainer_of(str(tmp_path), table_files, quantizer).study.loaded  # noqa: B018
    assert "weights_only" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_corrupt_gguf_is_refused(table_files, quantizer, tmp_path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(InputError, match="cannot be loaded"):
        trainer_of(str(tmp_path / "model.gguf"), table_files, quantizer).layers()


@pytest.mark.parametrize(
    "columns", [{"text": ("a", "a")}, {"text": "a", "label": "a"}, {"text": ("a", "label")}]
)
def test_a_column_named_twice_is_refused(columns) -> None:
    with pytest.raises(ValidationError, match="name a column twice"):
        Classification.Options(train=Path("t"), validation=Path("v"), **columns)


def test_labels_keep_their_text(tmp_path) -> None:
    for name in ("train", "validation"):
        rows = "".join(f"w{n}\t{label}\n" for n, label in enumerate(["None", "NA", "²", "NA"]))
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + rows)
    options = Classification.Options(
        train=tmp_path / "train.tsv", validation=tmp_path / "validation.tsv"
    )
    assert set(Classification(options).labels) == {"NA", "None", "²"}
