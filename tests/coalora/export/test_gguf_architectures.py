"""GGUF files of models that came from no such file, by architecture, run by llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.gguf.quantizer import GGUF
from qsearch_quantizers.integer.quantizer import Integer

from qsearch.plugins.components import space_of
from qsearch.space.configuration import Configuration
from tests.coalora.export.small_models import CONFIGS, TEXT, save_model
from tests.coalora.exported import export, weight_files
from tests.coalora.llama_cpp import engine_logits

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")

LENGTH, TOKENS = 256, 4096


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(TEXT * 4))
    return path


@pytest.fixture(scope="module", params=list(CONFIGS))
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module", params=["adapter", "merged"])
def trainer(request: Any, folder: Path, make_trainer: Any, text: Path) -> Any:
    """A study of a model with an adapter next to it, or with what was trained merged."""
    merged = request.param == "merged"
    options = CausalLanguageModelling.Options(train=text, validation=text, length=32)
    made = make_trainer(
        method=PTQTrainer if merged else CoALoRATrainer,
        model=folder,
        task=CausalLanguageModelling(options),
        plugin=GGUF(GGUF.Options(types=("Q5_1", "Q8_0")))
        if merged
        else Integer(Integer.Options(bits=(4, 8), group_size=(32,))),
        batch_size=4,
        learning_rate=1e-2,
        embeddings=merged,
    )
    made.train([configuration(made)], 1)
    made.load_state(made.state())
    return made


def configuration(trainer: Any) -> Configuration:
    """Each layer with one of two layer configurations by turns."""
    space = space_of(trainer.study.quantizer, trainer.layers())
    chosen = space.choices.layer_configurations
    return Configuration({one.name: chosen[n % 2] for n, one in enumerate(trainer.layers())})


@torch.no_grad()
def study_log_probabilities(trainer: Any, tokens: torch.Tensor) -> torch.Tensor:
    adapted = trainer.study.adapted
    adapted.peft_model.eval()
    if isinstance(trainer, PTQTrainer):
        trainer.place(configuration(trainer))
    else:
        adapted.use(configuration(trainer))
    return adapted.logits({"input_ids": tokens}).log_softmax(-1)


def test_llama_cpp_predicts_what_the_study_does(trainer: Any, tmp_path: Path) -> None:
    planned = export(trainer, configuration(trainer), tmp_path, "gguf", "bfloat16")
    assert planned == weight_files(tmp_path)
    draw = torch.Generator().manual_seed(0)
    words = len(trainer.study.loaded.tokenizer)
    tokens = torch.randint(0, words, (TOKENS // LENGTH, LENGTH), generator=draw)
    expected = study_log_probabilities(trainer, tokens)
    adapter = tmp_path / "adapter.gguf"
    found = torch.stack(
        [
            engine_logits(tmp_path / "model.gguf", row, adapter if adapter.exists() else None)
            for row in tokens.tolist()
        ]
    ).log_softmax(-1)
    divergences = (expected.exp() * (expected - found)).sum(dim=-1)
    print(divergences.mean(), divergences.max(), expected.std())
    assert divergences.mean() < 0.005
