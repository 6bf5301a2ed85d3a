"""Small random models, data and a quantizer of two knobs, so that the suite needs no downloads."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pydantic import BaseModel
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.trainer import AdapterTrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.classification import Classification
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.space.configuration import Choices, Configuration, Knob, LayerConfiguration
from qsearch.spec.sections import ModelSpec

WORDS = [f"w{index}" for index in range(60)]


@pytest.fixture(autouse=True)
def _single_thread() -> None:
    torch.set_num_threads(1)


class RoundingQuantizer:
    """Rounds to 2^bits levels, with one scale a row or one a weight."""

    name = "rounding"

    class Options(BaseModel):
        """No options."""

    def __init__(self) -> None:
        self.options = self.Options()
        self.calls = 0

    def choices(self) -> Choices:
        return Choices((Knob("bits", (2, 4, 8)), Knob("scale", ("tensor", "row"))))

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        return float(configuration.integer("bits"))

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        self.calls += 1
        top = 2 ** (configuration.integer("bits") - 1) - 1
        by_row = configuration.text("scale") == "row"
        scale = weight.abs().amax(dim=1, keepdim=True) if by_row else weight.abs().max()[None, None]
        codes = (weight / scale * top).round().to(torch.int8)
        tensors = {"codes": codes, "scale": scale / top}
        return QuantizedTensor(tensors, (weight.shape[0], weight.shape[1]), configuration)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        return quantized.tensors["codes"].float() * quantized.tensors["scale"]


@pytest.fixture
def quantizer() -> RoundingQuantizer:
    return RoundingQuantizer()


def small_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of words."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
    )


def small_config(kind: str, **changes: object) -> Any:
    """The configuration of a small model of a class of transformers."""
    sizes = {
        "vocab_size": 63,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 160,
    }
    return getattr(transformers, f"{kind}Config")(**sizes | changes)


def head_of(kind: str) -> str:
    """What a model class is for, as transformers names its head."""
    return "SequenceClassification" if kind in ("Bert", "Roberta", "MPNet") else "CausalLM"


def headed_class(kind: str) -> Any:
    """The model class with that head; the text models of Gemma 3 share its name."""
    return getattr(transformers, f"{kind.removesuffix('Text')}For{head_of(kind)}")


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(small_config("Bert"))
    model.bert.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def save_llama(
    folder: Path, intermediate_size: int, tied: bool = False, hidden_size: int = 32
) -> Path:
    """Save a small Llama with its tokenizer."""
    sizes = {
        "num_key_value_heads": 1,
        "intermediate_size": intermediate_size,
        "hidden_size": hidden_size,
    }
    config = small_config("Llama", **sizes, tie_word_embeddings=tied)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"), 48)


@pytest.fixture(scope="session")
def tied_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama whose output head is its embedding, with rows of whole groups of 32."""
    return save_llama(tmp_path_factory.mktemp("tied"), 64, tied=True)


def write_rows(path: Path, count: int, seed: int) -> Path:
    """Write texts whose label is which half of the vocabulary most words come from."""
    draw = random.Random(seed)
    rows = ["text\tlabel"]
    for _ in range(count):
        label = draw.randrange(2)
        own = WORDS[30 * label : 30 * label + 30]
        text = " ".join(
            draw.choice(own if draw.random() < 0.9 else WORDS) for _ in range(draw.randint(3, 12))
        )
        rows.append(f"{text}\t{'right' if label else 'left'}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def table_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    return write_rows(folder / "train.tsv", 96, 0), write_rows(folder / "validation.tsv", 40, 1)


def classification(files: tuple[Path, Path], **options: object) -> Classification:
    """A task of a training and a validation file."""
    return Classification(Classification.Options(train=files[0], validation=files[1], **options))


@pytest.fixture(scope="session")
def make_trainer(bert_folder: Path, table_files: tuple[Path, Path]) -> Callable[..., Any]:
    """Return a maker of trainers that classify with the small BERT, unless told otherwise."""

    def make(
        seed: int = 0,
        plugin: Any = None,
        method: Any = CoALoRATrainer,
        task: Any = None,
        model: Path | str = bert_folder,
        layers: tuple[str, ...] = ("*",),
        embeddings: bool = False,
        **options: object,
    ) -> Any:
        fields = {"rank": 4, "steps": 4, "batch_size": 8, "warmup_steps": 1} | options
        trainer = method(
            method.Options(**fields),
            ModelSpec(name=str(model), layers=layers),
            task or classification(table_files),
            plugin or RoundingQuantizer(),
            seed,
        )
        if embeddings:
            trainer.search_embeddings()
        return trainer

    return make


def causal_tasks(folder: Path) -> Callable[..., CausalLanguageModelling]:
    """Return a maker of tasks on a text of words in a folder; the task's options as keywords."""
    text = folder / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[n:] + WORDS[:n]) for n in range(40)))

    def make(**options: object) -> CausalLanguageModelling:
        fields = {"train": text, "validation": text, "length": 24} | options
        return CausalLanguageModelling(CausalLanguageModelling.Options(**fields))

    return make


@pytest.fixture
def make_causal_task(tmp_path: Path) -> Callable[..., CausalLanguageModelling]:
    """Return a maker of tasks on a text of words; the task's options as keywords."""
    return causal_tasks(tmp_path)


@pytest.fixture(scope="session")
def make_configuration() -> Callable[[AdapterTrainer, int], Configuration]:
    """Return a maker of random configurations: (trainer, seed) -> configuration."""

    def make(trainer: AdapterTrainer, seed: int) -> Configuration:
        draw = random.Random(seed)
        choices = trainer.study.quantizer.choices()
        return Configuration(
            {
                layer.name: choices.layer_configuration(draw.randrange(choices.size))
                for layer in trainer.layers()
            }
        )

    return make
