"""GGUF files of integers and of ggml's types, on a small model in a real file's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qsearch_coalora.export.job import CLASSIFIER
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_quantizers.gguf.quantizer import GGUF
from qsearch_quantizers.integer.quantizer import Integer
from transformers import AutoModelForCausalLM, AutoTokenizer

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration, LayerConfiguration
from tests.coalora.export.small_gguf import finish, write_small
from tests.coalora.exported import engine_logits, export, weight_files

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The heads of its queries, 6, do not divide the 32 rows of a key."""
    return write_small(tmp_path_factory.mktemp("small") / "small.gguf", 96, 128)


QUANTIZERS = {
    "integer": Integer(Integer.Options(bits=(4, 8), group_size=(32,))),
    "gguf": GGUF(GGUF.Options(types=("MXFP4", "Q5_1"))),
}
KINDS = {"integer": {"Q4_0", "Q8_0"}, "gguf": {"MXFP4", "Q5_1"}}


def configuration(trainer: CoALoRATrainer) -> Configuration:
    """Each layer with one of two layer configurations by turns."""
    chosen, layers = trainer.study.quantizer.choices().layer_configurations, trainer.layers()
    return Configuration({one.name: chosen[n % 2] for n, one in enumerate(layers)})


@pytest.fixture(
    scope="module",
    params=[("integer", False), ("integer", True), ("gguf", True)],
    ids=["blocks", "embeddings", "ggml-types"],
)
def trainer(
    request: Any, make_trainer: Any, small_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> CoALoRATrainer:
    """A trained study's trainer; its export changes nothing, so tests share it."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("The film was good and the plot was fine. " * 60)
    name, embeddings = request.param
    if name == "gguf":
        pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    options = CausalLanguageModelling.Options(train=text, validation=text, length=32)
    made = make_trainer(
        model=small_file,
        task=CausalLanguageModelling(options),
        plugin=QUANTIZERS[name],
        batch_size=4,
        learning_rate=1e-2,
        embeddings=embeddings,
    )
    made.train([configuration(made)], 1)
    return made


@pytest.fixture(scope="module")
def exported(trainer: CoALoRATrainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    assert export(trainer, configuration(trainer), out, "gguf") == weight_files(out)
    return out


def loaded(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


@torch.no_grad()
def assert_same_logits(trainer: CoALoRATrainer, model: Any, tokens: torch.Tensor) -> None:
    trainer.study.adapted.peft_model.eval()
    trainer.study.adapted.use(configuration(trainer))
    expected = trainer.study.adapted.logits({"input_ids": tokens})
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)


def test_what_is_dequantized_from_the_file_is_what_the_study_evaluated(
    trainer: CoALoRATrainer, exported: Path
) -> None:
    model = loaded(exported / "model.gguf")
    wanted = configuration(trainer)
    for position, layer in enumerate(trainer.layers()):
        expected = trainer.study.adapted.weights.dequantized(position, wanted[layer.name])
        assert torch.equal(model.model.get_submodule(layer.name).weight, expected)
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(exported / "model.gguf").tensors}
    assert kinds == {"F32", *KINDS[trainer.study.quantizer.name]}


def test_metadata_and_tokenizer_are_the_original_files(small_file: Path, exported: Path) -> None:
    before, after = gguf.GGUFReader(small_file), gguf.GGUFReader(exported / "model.gguf")
    names = {name for name in before.fields if not name.startswith("GGUF.")}
    assert names - after.fields.keys() == {"general.file_type"}
    for name in names & after.fields.keys():
        assert after.fields[name].contents() == before.fields[name].contents()


def test_tensors_that_are_not_quantized_are_the_original_files_to_the_byte(
    small_file: Path, exported: Path
) -> None:
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(small_file).tensors}
    after = {tensor.name: tensor for tensor in gguf.GGUFReader(exported / "model.gguf").tensors}
    assert list(before) == list(after)
    kept = [n for n in before if after[n].tensor_type == before[n].tensor_type]
    assert {n for n in before if "norm" in n} <= set(kept)
    assert all(after[n].data.tobytes() == before[n].data.tobytes() for n in kept)


def test_a_card_says_that_transformers_makes_other_tokens_than_the_files(exported: Path) -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    # The file's rules cut digits apart; transformers takes no rules from a file.
    card = (exported / "README.md").read_text()
    assert "llama.cpp makes other tokens of some texts" in card
    assert "['1', '2', 'Ġ'] and ['12', 'Ġ', '3']" in card


@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_an_adapters_factors_are_stored_in_16_bits(
    trainer: CoALoRATrainer, exported: Path, tmp_path: Path, dtype: str
) -> None:
    assert export(trainer, configuration(trainer), tmp_path, "gguf", dtype) == weight_files(
        tmp_path
    )
    assert (tmp_path / "model.gguf").read_bytes() == (exported / "model.gguf").read_bytes()
    plain = {one.name: one for one in gguf.GGUFReader(exported / "adapter.gguf").tensors}
    for tensor in gguf.GGUFReader(tmp_path / "adapter.gguf").tensors:
        assert tensor.tensor_type.name == {"auto": "BF16", "float16": "F16"}[dtype]
        assert list(tensor.shape) == list(plain[tensor.name].shape)
        kind = {"auto": torch.bfloat16, "float16": torch.float16}[dtype]
        rounded = torch.from_numpy(plain[tensor.name].data.copy()).to(kind).float().numpy()
        np.testing.assert_array_equal(
            gguf.quants.dequantize(tensor.data, tensor.tensor_type), rounded
        )


def test_model_and_adapter_of_the_files_give_the_studys_logits(
    trainer: CoALoRATrainer, exported: Path, tmp_path: Path
) -> None:
    reader = gguf.GGUFReader(exported / "adapter.gguf")
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.type"].contents() == "lora"
    factors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(factors) == 2 * len(trainer.study.adapted.adapted_layers)

    def merged(tensor: Any) -> Any:
        # As llama.cpp does: the product goes onto the file's own tensor, in its order of rows.
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if f"{tensor.name}.lora_a" not in factors:
            return weight
        A, B = factors[f"{tensor.name}.lora_a"], factors[f"{tensor.name}.lora_b"]
        return weight + reader.fields["adapter.lora.alpha"].contents() / len(A) * B @ A

    model = gguf.GGUFReader(exported / "model.gguf")
    writer = gguf.GGUFWriter(tmp_path / "merged.gguf", "llama")
    for field in model.fields.values():
        if field.name.startswith("llama."):
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in model.tensors:
        writer.add_tensor(tensor.name, merged(tensor))
    finish(writer)
    tokens = torch.arange(100, 124).view(2, 12)
    assert_same_logits(trainer, loaded(tmp_path / "merged.gguf"), tokens)


def test_llama_cpp_gives_the_logits_of_the_same_weights(
    trainer: CoALoRATrainer, exported: Path, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp_py_sync")
    export(trainer, configuration(trainer), tmp_path, "packed-base")
    tokens = torch.arange(100, 124)[None]
    with torch.no_grad():
        packed = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(tokens).logits[0]
    found = engine_logits(exported / "model.gguf", tokens[0].tolist())
    # llama.cpp rounds the inputs of quantized products to 8 bits.
    assert (found - packed).norm() / packed.norm() < 0.02
    kinds = {
        one.name: one.tensor_type.name for one in gguf.GGUFReader(exported / "model.gguf").tensors
    }
    quantized = any(layer.is_table for layer in trainer.layers())
    assert (kinds["token_embd.weight"] != "F32") == quantized


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_llama_cpp_loads_an_adapter_of_16_bits(
    trainer: CoALoRATrainer, exported: Path, tmp_path: Path, dtype: str
) -> None:
    pytest.importorskip("llama_cpp_py_sync")
    export(trainer, configuration(trainer), tmp_path / "files", "gguf", dtype)
    export(trainer, configuration(trainer), tmp_path / "packed", "packed")
    tokens = torch.arange(100, 124)[None]
    with torch.no_grad():
        packed = AutoModelForCausalLM.from_pretrained(tmp_path / "packed").eval()(tokens).logits[0]
    model, adapter = (tmp_path / "files" / f"{name}.gguf" for name in ("model", "adapter"))
    found = engine_logits(model, tokens[0].tolist(), adapter)
    without = engine_logits(model, tokens[0].tolist())
    off, gap = (found - packed).norm(), (without - packed).norm()
    assert off / packed.norm() < 0.02
    assert off < gap / 2


def test_a_model_from_a_gguf_file_is_packed_with_its_tokenizer(
    trainer: CoALoRATrainer, tmp_path: Path
) -> None:
    export(trainer, configuration(trainer), tmp_path, "packed")
    text, tokenizer = "The film was good", trainer.study.loaded.tokenizer
    tokens = AutoTokenizer.from_pretrained(tmp_path)(text, return_tensors="pt")["input_ids"]
    assert torch.equal(tokens, tokenizer(text, return_tensors="pt")["input_ids"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert_same_logits(trainer, model, tokens)


def test_bits_that_gguf_has_no_type_for_are_refused(
    trainer: CoALoRATrainer, tmp_path: Path
) -> None:
    if trainer.study.quantizer.name != "integer":
        pytest.skip("the quantizer gguf has such types alone")
    three = LayerConfiguration({"bits": 3, "group_size": 32})
    chosen = Configuration(dict.fromkeys(configuration(trainer), three))
    with pytest.raises(InputError, match=r"GGUF has no type that holds layer .*symmetric integers"):
        export(trainer, chosen, tmp_path, "gguf")


def test_a_quantizer_without_types_of_ggml_is_refused(
    make_trainer: Any, small_file: Path, make_causal_task: Any, tmp_path: Path
) -> None:
    other = make_trainer(model=small_file, task=make_causal_task())
    with pytest.raises(InputError, match=r"holds ggml's types; .*'gguf' and 'integer' are for it"):
        export(other, configuration(other), tmp_path, "gguf")


def test_a_classifier_is_refused(
    trainer: CoALoRATrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsearch_coalora.export.gguf.auto_class", lambda _: CLASSIFIER)
    with pytest.raises(InputError, match="is for causal language models"):
        export(trainer, configuration(trainer), tmp_path, "gguf")
