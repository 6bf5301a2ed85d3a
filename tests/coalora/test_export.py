from __future__ import annotations

import json
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from qsearch_coalora.exports import merged
from qsearch_coalora.models import load_config
from qsearch_coalora.tasks.causal import CausalLanguageModelling
from qsearch_coalora.trainer import CoALoRATrainer
from qsearch_quantizers.integer import Integer
from qsearch_quantizers.normal_float import NormalFloat
from qsearch_quantizers.packed_linear import PackedLinear
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
)

from qsearch.configuration import Configuration
from qsearch.errors import InputError
from qsearch.layers import FUSED_ROLES, tied_groups
from qsearch.plugins import ModelSpec


def trained(make_trainer, make_configuration, **options):
    trainer = make_trainer(steps=20, learning_rate=1e-2, **options)
    wanted = make_configuration(trainer, 0)
    trainer.train([wanted, make_configuration(trainer, 1)], 0)
    return trainer, wanted


@torch.no_grad()
def study_logits(trainer, configuration, batch) -> torch.Tensor:
    adapted = trainer.adapted
    adapted.peft_model.eval()
    adapted.activate(configuration)
    U = adapted.adjustments(configuration)
    assert U.abs().max() > 1e-3  # else folding would be tested on nothing
    adapted.projections.set(U)
    logits = adapted.logits(batch)
    adapted.projections.clear()
    return logits


@torch.no_grad()
def plain_logits(trainer, configuration, folder, batch) -> torch.Tensor:
    """Quantize a fresh base model by hand, load the adapter with PEFT alone, and run it."""
    base = trainer.task.load_model(trainer.model, seed=99).module
    for name, layer in configuration.items():
        linear = base.base_model.get_submodule(name)
        quantized = trainer.quantizer.quantize(linear.weight, layer)
        linear.weight.copy_(trainer.quantizer.dequantize(quantized))
    plain = PeftModel.from_pretrained(base, str(folder)).eval()
    return plain(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.mark.parametrize(
    "options", [{}, {"alpha": 8.0}, {"init": "shared", "alpha": 8.0}, {"residual_rank": 4}]
)
def test_an_exported_adapter_gives_the_same_logits_in_plain_peft(
    make_trainer, make_configuration, tmp_path, options
) -> None:
    trainer, wanted = trained(make_trainer, make_configuration, **options)
    batch = next(iter(trainer.task.batches("validation", 8)))
    expected = study_logits(trainer, wanted, batch)
    trainer.export(wanted, tmp_path, "adapter")
    found = plain_logits(trainer, wanted, tmp_path, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_an_export_leaves_the_study_as_it_was(make_trainer, make_configuration, tmp_path) -> None:
    trainer, wanted = trained(make_trainer, make_configuration)
    before = trainer.state().tensors
    trainer.export(wanted, tmp_path, "adapter")
    after = trainer.state().tensors
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_exported_adapter_says_what_it_is_for(
    make_trainer, make_configuration, tmp_path
) -> None:
    trainer, wanted = trained(make_trainer, make_configuration)
    trainer.export(wanted, tmp_path, "adapter")
    written = json.loads((tmp_path / "configuration.json").read_text())
    assert written == {name: dict(layer) for name, layer in wanted.items()}
    card = (tmp_path / "README.md").read_text()
    assert "# CoA-LoRA adapter for" in card
    assert "adjustment U" in card
    assert "PeftModel.from_pretrained" in card
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == trainer.model.name
    assert config["inference_mode"] is True


def test_an_unknown_format_is_refused_with_those_that_exist(
    make_trainer, make_configuration, tmp_path
) -> None:
    trainer = make_trainer()
    with pytest.raises(InputError, match=r"'onnx'.*adapter.*packed"):
        trainer.export(make_configuration(trainer, 0), tmp_path, "onnx")


@pytest.fixture
def packing_study(make_trainer, make_configuration):
    """A trained study of normal float, one of its configurations, and what it computes."""
    quantizer = NormalFloat(NormalFloat.Options())
    trainer, wanted = trained(make_trainer, make_configuration, plugin=quantizer)
    batch = next(iter(trainer.task.batches("validation", 8)))
    return trainer, wanted, batch, study_logits(trainer, wanted, batch)


def loaded_logits(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.mark.parametrize("format", ["packed", "merged"])
def test_a_whole_model_gives_the_same_logits(packing_study, tmp_path, format) -> None:
    trainer, wanted, batch, expected = packing_study
    trainer.export(wanted, tmp_path, format)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)
    assert "AutoModelForSequenceClassification.from_pretrained" in (
        tmp_path / "README.md"
    ).read_text(encoding="utf-8")


def test_an_adapter_on_the_packed_base_gives_the_same_logits(packing_study, tmp_path) -> None:
    trainer, wanted, batch, expected = packing_study
    trainer.export(wanted, tmp_path / "base", "packed-base")
    trainer.export(wanted, tmp_path / "adapter", "adapter")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)


def test_an_adapter_cannot_be_merged_into_packed_weights(packing_study, tmp_path) -> None:
    trainer, wanted, *_ = packing_study
    trainer.export(wanted, tmp_path / "base", "packed-base")
    trainer.export(wanted, tmp_path / "adapter", "adapter")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    with pytest.raises(InputError, match="cannot be merged into packed weights"):
        model.merge_and_unload()


@pytest.mark.parametrize("format", ["adapter", "packed", "packed-base", "merged"])
def test_no_export_puts_a_second_float_model_into_memory(packing_study, tmp_path, format) -> None:
    trainer, wanted, *_ = packing_study
    trainer.export(wanted, tmp_path, format)
    weights = trainer.adapted.weights
    for original, layer in zip(weights.originals, trainer.adapted.lora_layers, strict=True):
        assert layer.base_layer.weight.data_ptr() == original.data_ptr()


def test_quantized_weights_take_the_bytes_that_average_bits_say(packing_study, tmp_path) -> None:
    trainer, wanted, *_ = packing_study
    trainer.export(wanted, tmp_path, "packed")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    found = sum(m.get_buffer(name).nbytes for m in packed for name in m.tensor_names)
    (bits,) = trainer.average_bits([wanted])
    parameters = sum(layer.parameters for layer in trainer.layers())
    # Blocks of scales do not divide such small matrices; the real model's are within 1 %.
    assert found == pytest.approx(bits * parameters / 8, rel=0.03)


def test_packing_needs_a_quantizer_with_a_layout(
    make_trainer, make_configuration, tmp_path
) -> None:
    trainer = make_trainer()
    with pytest.raises(InputError, match=r"'rounding' cannot be exported as packed: .*layout"):
        trainer.export(make_configuration(trainer, 0), tmp_path, "packed")


def test_activating_a_configuration_clears_the_adjustments_of_the_last(
    make_trainer, make_configuration
) -> None:
    trainer = make_trainer()
    adapted = trainer.adapted
    adapted.peft_model.eval()
    chosen = make_configuration(trainer, 0)
    for _, B in adapted.factors():
        torch.nn.init.normal_(B)
    adapted.activate(chosen)
    batch = next(iter(trainer.task.batches("validation", 8)))
    with torch.no_grad():
        plain = adapted.logits(batch)
        adapted.projections.set(torch.ones(len(adapted.layers), 4, 4))
        assert not torch.equal(adapted.logits(batch), plain)
        adapted.activate(chosen)
        assert torch.equal(adapted.logits(batch), plain)


def test_zero_adjustments_equal_plain_lora_exactly(make_trainer, make_configuration) -> None:
    trainer = make_trainer()
    adapted = trainer.adapted
    adapted.peft_model.eval()
    adapted.activate(make_configuration(trainer, 0))
    for _, B in adapted.factors():
        torch.nn.init.normal_(B)
    batch = next(iter(trainer.task.batches("validation", 8)))
    with torch.no_grad():
        plain = adapted.logits(batch)
        adapted.projections.set(torch.zeros(len(adapted.layers), 4, 4))
        assert torch.equal(adapted.logits(batch), plain)


def file_bytes(folder) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_a_packed_exports_files_take_what_the_footprint_says(packing_study, tmp_path) -> None:
    trainer, wanted, *_ = packing_study
    trainer.export(wanted, tmp_path, "packed")
    (bits,) = trainer.average_bits([wanted])
    predicted = trainer.footprint().file_bytes(bits)
    assert 0.9 * predicted < file_bytes(tmp_path) <= predicted


def test_only_causal_models_cache_keys_and_values(make_trainer, llama_folder, tmp_path) -> None:
    assert make_trainer().footprint().cache_bytes_per_token == 0
    (tmp_path / "text.txt").write_text("w1 w2 w3 w4 " * 200)
    text = tmp_path / "text.txt"
    options = {"train": text, "validation": text, "length": 32}
    trainer = CoALoRATrainer(
        CoALoRATrainer.Options(rank=4, steps=1),
        ModelSpec(name=str(llama_folder)),
        CausalLanguageModelling(CausalLanguageModelling.Options(**options)),
        NormalFloat(NormalFloat.Options()),
        0,
    )
    outputs = sum(one.shape[0] for one in trainer.layers() if one.role in ("key", "value"))
    footprint = trainer.footprint()
    assert footprint.cache_bytes_per_token == 4 * outputs > 0
    assert footprint.tokens == 32


@pytest.fixture(scope="module")
def even_llama_folder(llama_folder, tmp_path_factory):
    """The small Llama with rows that groups of 32 divide."""
    folder = tmp_path_factory.mktemp("even")
    config = AutoConfig.from_pretrained(llama_folder, intermediate_size=96)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def causal_study(even_llama_folder, tmp_path_factory):
    """Return a maker of a trained study of integers on a small Llama, and its configuration."""

    def make(
        scheme="symmetric", tied=True, bits=(3, 4, 8), name=even_llama_folder, patterns=("*",)
    ):
        folder = tmp_path_factory.mktemp("causal")
        (folder / "text.txt").write_text("w1 w2 w3 w4 w5 w6 w7 " * 200)
        text = folder / "text.txt"
        options = CausalLanguageModelling.Options(train=text, validation=text, length=32)
        quantizer = Integer(Integer.Options(bits=bits, group_size=(32,), scheme=scheme))
        trainer = CoALoRATrainer(
            CoALoRATrainer.Options(rank=4, steps=4, batch_size=4, learning_rate=1e-2),
            ModelSpec(name=str(name), layers=patterns),
            CausalLanguageModelling(options),
            quantizer,
            0,
        )
        layers = trainer.layers()
        groups = tied_groups(layers, FUSED_ROLES if tied else ())
        choices = quantizer.choices()
        wanted = Configuration(
            {
                layers[member].name: choices.layer_configuration(number * 7 % choices.size)
                for number, group in enumerate(groups)
                for member in group.members
            }
        )
        trainer.train([wanted], 0)
        return trainer, wanted

    return make


def test_compressed_tensors_give_the_same_logits(causal_study, tmp_path) -> None:
    pytest.importorskip("compressed_tensors")
    trainer, wanted = causal_study()
    batch = next(iter(trainer.task.batches("validation", 4)))
    expected = study_logits(trainer, wanted, batch)
    trainer.export(wanted, tmp_path, "compressed-tensors")
    base = AutoModelForCausalLM.from_pretrained(tmp_path)
    base.hf_quantizer.compressor.decompress_model(base)  # As the card says.
    without = loaded_logits(base, batch)
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    found = loaded_logits(model, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, without, atol=1e-3)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_compressed_tensors_are_decompressed_to_the_studys_weights(
    causal_study, tmp_path, scheme
) -> None:
    package = pytest.importorskip("compressed_tensors")
    trainer, wanted = causal_study(scheme)
    trainer.export(wanted, tmp_path, "compressed-tensors")
    written = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    config = package.quantization.QuantizationConfig.model_validate(written)
    tensors = load_file(tmp_path / "model.safetensors")
    names = [layer.name for layer in trainer.layers()]
    compressor = package.compressors.PackedQuantizationCompressor
    decompressed = 0
    for group in config.config_groups.values():
        for target in group.targets:
            prefix = f"{target}."
            layer = {k.removeprefix(prefix): v for k, v in tensors.items() if prefix in k}
            layer["weight_scale"] = layer["weight_scale"].float()
            found = compressor.decompress(layer, group)["weight"]
            name = target.removeprefix("model.")
            assert group.weights.num_bits == wanted[name]["bits"]
            expected = trainer.adapted.weights.dequantized(names.index(name), wanted[name])
            assert torch.equal(found, expected)
            decompressed += 1
    assert decompressed == len(names)
    assert ("asymmetric" in (tmp_path / "README.md").read_text()) == (scheme == "asymmetric")


def test_engines_get_no_layers_that_they_cannot_fuse(causal_study, tmp_path) -> None:
    trainer, wanted = causal_study(tied=False)
    with pytest.raises(InputError) as caught:
        trainer.export(wanted, tmp_path, "compressed-tensors")
    message = str(caught.value)
    for part in ("q_proj", "k_proj", "v_proj", "'bits': 8", "space.tied: fused"):
        assert part in message


def test_engines_get_integers_alone(packing_study, tmp_path) -> None:
    trainer, wanted, *_ = packing_study
    with pytest.raises(InputError, match="weights of quantizer 'normal-float' are none"):
        trainer.export(wanted, tmp_path, "compressed-tensors")


def test_a_missing_package_names_its_extra(causal_study, tmp_path, monkeypatch) -> None:
    trainer, wanted = causal_study()
    for name in [name for name in sys.modules if name.split(".")[0] == "compressed_tensors"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "compressed_tensors", None)
    with pytest.raises(InputError, match=r"qsearch\[compressed-tensors\]"):
        trainer.export(wanted, tmp_path, "compressed-tensors")


def test_groups_that_do_not_divide_a_row_are_refused(causal_study, llama_folder, tmp_path) -> None:
    trainer, wanted = causal_study(name=llama_folder)
    with pytest.raises(InputError, match=r"down_proj' has 48 input features.*groups of 32"):
        trainer.export(wanted, tmp_path, "compressed-tensors")


def test_a_study_of_a_packed_model_is_refused(packing_study, tmp_path) -> None:
    trainer, wanted, *_ = packing_study
    trainer.export(wanted, tmp_path, "packed")
    with pytest.raises(InputError, match=r"is quantized already \(quant_method 'qsearch'\)"):
        load_config(ModelSpec(name=str(tmp_path)))


def test_engines_get_no_group_of_which_a_part_is_quantized(causal_study, tmp_path) -> None:
    trainer, wanted = causal_study(patterns=("*q_proj", "*o_proj", "*up_proj", "*down_proj"))
    with pytest.raises(InputError, match=r"k_proj not quantized.*space.tied: fused"):
        trainer.export(wanted, tmp_path, "compressed-tensors")


def test_a_merged_model_is_written_file_by_file(packing_study, tmp_path, monkeypatch) -> None:
    trainer, wanted, batch, expected = packing_study
    monkeypatch.setattr(merged, "_SHARD", "20KB")
    largest = []
    save = merged.save_file

    def counted(tensors, *arguments, **named):
        largest.append(sum(tensor.nbytes for tensor in tensors.values()))
        save(tensors, *arguments, **named)

    monkeypatch.setattr(merged, "save_file", counted)
    trainer.export(wanted, tmp_path, "merged")
    assert max(largest) < sum(largest) / 3
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("group_size", [32, 128])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_files_of_groups_that_do_not_divide_rows_take_no_more_than_the_footprint_says(
    make_trainer, tmp_path, group_size, scheme
) -> None:
    quantizer = Integer(Integer.Options(group_size=(group_size,), scheme=scheme))
    trainer = make_trainer(plugin=quantizer)  # Rows of 32 and 64 weights.
    chosen = quantizer.choices().layer_configuration(0)
    wanted = Configuration({layer.name: chosen for layer in trainer.layers()})
    trainer.export(wanted, tmp_path, "packed")
    (bits,) = trainer.average_bits([wanted])
    assert file_bytes(tmp_path) <= trainer.footprint().file_bytes(bits)


def test_a_card_shows_names_as_they_are(packing_study, tmp_path) -> None:
    trainer, wanted, *_ = packing_study
    trainer.model = ModelSpec(name="`<img src=x>`\n# a: [🙂")
    trainer.export(wanted, tmp_path, "packed")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == trainer.model.name
    assert "# `'<img src=x>' # a: [🙂`, packed by qsearch" in card.text
