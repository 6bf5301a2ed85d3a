"""GGUF files of post-training quantization to ggml's types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.gguf.ggml_types import TYPES
from qsearch_quantizers.gguf.quantizer import GGUF
from transformers import AutoModelForCausalLM

from qsearch.errors import InputError
from qsearch.plugins.components import space_of
from qsearch.space.configuration import Configuration, LayerConfiguration
from tests.coalora.export.small_gguf import write_small
from tests.coalora.exported import engine_logits, export, weight_files

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")

TOKENS = torch.arange(100, 124)[None]


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Down projections have rows of 256 weights, all others of 64."""
    return write_small(tmp_path_factory.mktemp("small") / "small.gguf", 64, 256)


@pytest.fixture(scope="module")
def study(make_trainer: Any, small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a maker of trainers, which have begun."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("The film was good and the plot was fine. " * 60)

    def make(fine_tune: bool) -> PTQTrainer:
        options = CausalLanguageModelling.Options(train=text, validation=text, length=32)
        trainer: PTQTrainer = make_trainer(
            method=PTQTrainer,
            model=small_file,
            task=CausalLanguageModelling(options),
            plugin=GGUF(GGUF.Options(types=tuple(TYPES))),
            batch_size=4,
            learning_rate=1e-2,
            embeddings=True,
            fine_tune=fine_tune,
        )
        trainer.train([by_turns(trainer)], 1)
        trainer.load_state(trainer.state())  # As an export does.
        return trainer

    return make


NARROW = ("MXFP4", "Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""The types that rows of 64 weights take."""


def by_turns(trainer: PTQTrainer, down: str = "Q3_K") -> Configuration:
    """Down projections with one type, others with the types of narrow rows by turns."""
    kinds = [
        down if layer.role == "down" else NARROW[number % len(NARROW)]
        for number, layer in enumerate(trainer.layers())
    ]
    names = (layer.name for layer in trainer.layers())
    chosen = (LayerConfiguration({"type": kind}) for kind in kinds)
    return Configuration(dict(zip(names, chosen, strict=True)))


@pytest.fixture(scope="module", params=[False, True], ids=["as-it-is", "fine-tuned"])
def trainer(request: Any, study: Any) -> PTQTrainer:
    made: PTQTrainer = study(request.param)
    return made


@pytest.fixture(scope="module")
def exported(trainer: PTQTrainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    assert export(trainer, by_turns(trainer), out, "gguf") == weight_files(out)
    return out


@torch.no_grad()
def study_logits(trainer: PTQTrainer, down: str = "Q3_K") -> torch.Tensor:
    trainer.study.adapted.peft_model.eval()
    trainer.place(by_turns(trainer, down))
    return trainer.study.adapted.logits({"input_ids": TOKENS})[0]


def test_layers_take_the_types_that_divide_their_rows(study: Any) -> None:
    trainer = study(False)
    space = space_of(trainer.study.quantizer, trainer.layers())
    for layer, possible in zip(space.layers, space.possible, strict=True):
        types = [name for name, one in zip(TYPES, possible, strict=True) if one]
        assert types == list(TYPES if layer.role == "down" else NARROW)


def test_a_file_has_the_types_of_the_configuration_and_no_adapter(
    trainer: PTQTrainer, exported: Path
) -> None:
    assert sorted(path.name for path in exported.iterdir()) == ["README.md", "model.gguf"]
    assert "adapter" not in (exported / "README.md").read_text()
    kinds = [one.tensor_type.name for one in gguf.GGUFReader(exported / "model.gguf").tensors]
    wanted = [layer.text("type") for layer in by_turns(trainer).values()]
    assert sorted(kind for kind in kinds if kind != "F32") == sorted(wanted)


def test_transformers_reads_the_studys_weights_to_the_bit(
    trainer: PTQTrainer, exported: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported, gguf_file="model.gguf", dtype="float32")
    wanted = by_turns(trainer)
    for position, layer in enumerate(trainer.layers()):
        expected = trainer.study.adapted.weights.dequantized(position, wanted[layer.name])
        assert torch.equal(model.model.get_submodule(layer.name).weight, expected)
    with torch.no_grad():
        logits = model.eval()(TOKENS).logits[0]
    torch.testing.assert_close(logits, study_logits(trainer), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", TYPES)
def test_llama_cpp_gives_the_studys_logits(trainer: PTQTrainer, tmp_path: Path, kind: str) -> None:
    export(trainer, by_turns(trainer, kind), tmp_path, "gguf")
    found = engine_logits(tmp_path / "model.gguf", TOKENS[0].tolist())
    expected = study_logits(trainer, kind)
    # llama.cpp rounds the inputs of quantized products to 8 bits.
    assert (found - expected).norm() / expected.norm() < 0.02


def test_exporting_twice_gives_the_same_bytes(
    trainer: PTQTrainer, exported: Path, tmp_path: Path
) -> None:
    export(trainer, by_turns(trainer), tmp_path, "gguf")
    for path in exported.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_a_packed_export_gives_the_studys_logits(trainer: PTQTrainer, tmp_path: Path) -> None:
    export(trainer, by_turns(trainer), tmp_path, "packed")
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(TOKENS).logits[0]
    torch.testing.assert_close(logits, study_logits(trainer), atol=1e-5, rtol=1e-5)


def test_weights_are_quantized_by_the_inputs_of_the_studys_text(study: Any) -> None:
    trainer = study(False)
    weights, plain = trainer.study.adapted.weights, GGUF(GGUF.Options(importance="none"))
    for position, layer in enumerate(trainer.layers()):
        original, chosen = weights.originals[position], by_turns(trainer, "Q2_K")[layer.name]
        squares, blind = weights.moments[position], plain.quantize(original, chosen)

        def error(weight: torch.Tensor) -> float:
            return float(((weight - original) ** 2 * squares).sum())  # noqa: B023

        known, unknown = (
            error(weights.dequantized(position, chosen)),
            error(plain.dequantize(blind)),
        )
        if layer.is_table:  # Its rows are looked up: all count the same.
            assert known == unknown
        elif chosen["type"] not in ("MXFP4", "Q8_0"):
            assert known < unknown


def test_types_that_no_layer_takes_are_refused(study: Any) -> None:
    layers = [layer for layer in study(False).layers() if layer.role != "down"]
    with pytest.raises(InputError, match="no layer of this model takes type Q2_K, Q3_K; leave"):
        space_of(GGUF(GGUF.Options(types=("Q2_K", "Q3_K", "Q4_0"))), layers)
    with pytest.raises(InputError, match=r"no layer configuration for .*q_proj \(64, 64\)"):
        space_of(GGUF(GGUF.Options(types=("Q2_K", "Q3_K"))), layers)
