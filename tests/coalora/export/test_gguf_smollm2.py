"""Blocks of a real language model with ggml's types by layer, as llama.cpp runs them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qsearch_coalora.export.gguf_model import ModelOriginal
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.models.source import locate_model
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.gguf.quantizer import GGUF
from torch.nn import Embedding, Linear, MultiheadAttention

from qsearch.deployment.storage_options import with_answers
from qsearch.plugins.components import space_of
from qsearch.plugins.exporters import Storage
from qsearch.space.configuration import Configuration
from tests.coalora.exported import engine_logits, export

gguf = pytest.importorskip("gguf")
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


def by_turns(trainer: PTQTrainer) -> Configuration:
    """Each layer with the types that it can take by turns."""
    space, numbers = space_of(trainer.study.quantizer, trainer.layers()), itertools.count()
    return Configuration(
        {
            layer.name: space.choices.layer_configurations[places[next(numbers) % len(places)]]
            for layer, possible in zip(space.layers, space.possible, strict=True)
            if len(places := possible.nonzero()[0])
        }
    )


def test_llama_cpp_predicts_what_the_study_does(trainer: PTQTrainer, tmp_path: Path) -> None:
    chosen = by_turns(trainer)
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


def test_the_model_is_written_as_the_file_that_it_came_from(trainer: PTQTrainer) -> None:
    source = locate_model(trainer.study.model)
    reader = gguf.GGUFReader(Path(source.path) / source.gguf_file)
    job = trainer.export_job(by_turns(trainer))
    written = ModelOriginal(with_answers(job, {"storage": Storage(torch.float32)}))
    tensors = {tensor.name: tensor for tensor in written.tensors}
    assert tensors.keys() == {tensor.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found = tensors[tensor.name].values().view(np.float32)
        assert np.array_equal(found, expected), tensor.name
    writer = gguf.GGUFWriter(None, written.architecture)
    written.add_fields(writer)
    fields = {name: value.value for name, value in writer.kv_data[0].items()}
    shared = fields.keys() & reader.fields.keys()
    unlike = {name for name in shared if fields[name] != reader.fields[name].contents()}
    # transformers takes no rules from the file, and the study is evaluated with those of GPT-2.
    assert unlike == {"general.name", "tokenizer.ggml.pre"}
