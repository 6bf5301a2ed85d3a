"""A study of a small random BERT on generated reviews, for quantizers of other packages."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

from qsearch.spec.yaml_text import dump_yaml

WORDS = ("good", "fine", "great", "bad", "poor", "awful", "film", "plot", "the", "a")


def write_tiny_study(folder: Path, quantizer: str, average_bits: tuple[float, float]) -> Path:
    """Write a study named as its quantizer, next to the model and the data that it names."""
    _write_model(folder / "model")
    for name in ("train", "validation"):
        rows = [f"the {word} film\t{int(n >= 3)}" for n, word in enumerate(WORDS[:6])]
        (folder / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows * 8]) + "\n")
    study = {
        "name": quantizer,
        "model": {"name": "./model"},
        "task": {
            "name": "classification",
            "train": "./train.tsv",
            "validation": "./validation.tsv",
            "max_length": 8,
        },
        "quantizer": {"name": quantizer},
        "trainer": {"name": "coa-lora", "rank": 4, "steps": 4, "batch_size": 8},
        "search": {
            "rounds": 2,
            "initial": 4,
            "candidates": 1,
            "segments": 4,
            "average_bits": list(average_bits),
        },
    }
    path = folder / "study.yaml"
    path.write_text(dump_yaml(study))
    return path


def _write_model(folder: Path) -> None:
    """Write a model of two blocks; rows of 32 and of 48 weights are not whole groups of most."""
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(str(folder))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(vocabulary), intermediate_size=48, **sizes)
    BertModel(config).save_pretrained(str(folder))
