"""Blocks of a real language model with ggml's types by layer, as llama.cpp runs them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.gguf.quantizer import GGUF
from torch.nn import Embedding, Linear, MultiheadAttention

from qsearch.plugins.components import space_of
from qsearch.space.configuration import Configuration
from tests.coalora.exported import export
from tests.coalora.llama_cpp import engine_logits

pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")

TOKENS = 256
KINDS = ("Q3_K", "MXFP4", "Q4_0", "Q5_0", "Q6_K", "Q8_0")
"""Types that are fast to quantize; of rows of 576 weights, four."""


@pytest.fixture(scope="module")
def trainer(
    make_trainer: Any, smollm2_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> PTQTrainer:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(f"{Linear.__doc__}\n{Embedding.__doc__}\n{MultiheadAttention.__doc__}")
    options = CausalLanguageModelling.Options(train=text, validation=text, length=64)
    made: PTQTrainer = make_trainer(
        method=PTQTrainer,
        model=smollm2_file,
        task=CausalLanguageModelling(options),
        plugin=GGUF(GGUF.Options(types=KINDS)),
        batch_size=1,
        calibration_batches=2,
        fine_tune=False,
        embeddings=True,
        cache_mebibytes=128,
    )
    made.load_state(made.state())
    return made


def test_llama_cpp_predicts_what_the_study_does(trainer: PTQTrainer, tmp_path: Path) -> None:
    space, numbers = space_of(trainer.study.quantizer, trainer.layers()), itertools.count()
    chosen = Configuration(
        {
            layer.name: space.choices.layer_configurations[places[next(numbers) % len(places)]]
            for layer, possible in zip(space.layers, space.possible, strict=True)
            if len(places := possible.nonzero()[0])
        }
    )
    batches = trainer.study.task.batches("validation", 1)
    tokens = torch.cat([batch["input_ids"][0] for batch in batches])[:TOKENS]
    trainer.place(chosen)
    trainer.study.adapted.peft_model.eval()
    with torch.no_grad():
        expected = trainer.study.adapted.logits({"input_ids": tokens[None]})[0].log_softmax(-1)
    export(trainer, chosen, tmp_path, "gguf")
    found = engine_logits(tmp_path / "model.gguf", tokens.tolist()).log_softmax(-1)
    divergences = (expected.exp() * (expected - found)).sum(dim=-1)
    print(divergences.mean(), divergences.std() / len(divergences) ** 0.5, divergences.max())
    # What is left is llama.cpp's rounding of the inputs of quantized products to 8 bits.
    assert divergences.mean() < 0.005
