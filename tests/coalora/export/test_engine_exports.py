"""Exports of integers for inference engines."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from peft import PeftModel
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration
from qsearch.space.layers import FUSED_ROLES, tied_groups
from tests.coalora.conftest import save_llama
from tests.coalora.exported import export, loaded_logits, study_logits, weight_files


@pytest.fixture(scope="module")
def even_llama_folder(tmp_path_factory):
    """A small Llama with rows that groups of 32 divide."""
    return save_llama(tmp_path_factory.mktemp("even"), 96)


@pytest.fixture
def causal_study(make_trainer, even_llama_folder, make_causal_task):
    """Return a maker of a study of integers on a small Llama, and its configuration."""

    def make(scheme="symmetric", tied=True, model=even_llama_folder, patterns=("*",)):
        quantizer = Integer(Integer.Options(bits=(3, 4, 8), group_size=(32,), scheme=scheme))
        task = make_causal_task(length=32)
        trainer = make_trainer(
            plugin=quantizer, task=task, model=model, layers=patterns, learning_rate=1e-2
        )
        layers, choices = trainer.layers(), quantizer.choices()
        groups = tied_groups(layers, FUSED_ROLES if tied else ())
        wanted = Configuration(
            {
                layers[member].name: choices.layer_configuration(number * 7 % choices.size)
                for number, group in enumerate(groups)
                for member in group.members
            }
        )
        return trainer, wanted

    return make


def test_compressed_tensors_give_the_same_logits(causal_study, tmp_path) -> None:
    pytest.importorskip("compressed_tensors")
    trainer, wanted = causal_study()
    trainer.train([wanted], 1)
    batch = next(iter(trainer.study.task.batches("validation", 4)))
    expected = study_logits(trainer, wanted, batch)
    planned = export(trainer, wanted, tmp_path, "compressed-tensors")
    assert planned == weight_files(tmp_path)
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
    planned = export(trainer, wanted, tmp_path, "compressed-tensors", "auto")
    assert planned == weight_files(tmp_path)
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
            expected = trainer.study.adapted.weights.dequantized(names.index(name), wanted[name])
            assert torch.equal(found, expected)
            decompressed += 1
    assert decompressed == len(names)
    assert ("asymmetric" in (tmp_path / "README.md").read_text()) == (scheme == "asymmetric")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"tied": False}, ["q_proj", "k_proj", "v_proj", "'bits': 8", "; and 2 more groups; "]),
        ({"patterns": ("*q_proj", "*o_proj", "*up_proj", "*down_proj")}, ["k_proj not quantized"]),
    ],
)
def test_engines_get_no_layers_that_they_cannot_fuse(
    causal_study, tmp_path, options, parts: list[str]
) -> None:
    trainer, wanted = causal_study(**options)
    with pytest.raises(InputError, match=r"search with space\.tied: fused") as caught:
        export(trainer, wanted, tmp_path, "compressed-tensors")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("format", ["compressed-tensors", "gguf"])
def test_engines_get_integers_alone_which_is_told_before_the_model_is_loaded(
    make_trainer, make_configuration, tmp_path, format
) -> None:
    trainer = make_trainer(plugin=NormalFloat(NormalFloat.Options()))
    chosen = make_configuration(trainer, 0)
    with pytest.raises(InputError, match="weights of quantizer 'normal-float' are not integers"):
        export(trainer, chosen, tmp_path, format)
    assert "loaded" not in vars(trainer.study)


def test_a_missing_package_names_its_extra(causal_study, tmp_path, monkeypatch) -> None:
    trainer, wanted = causal_study()
    for name in [name for name in sys.modules if name.split(".")[0] == "compressed_tensors"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "compressed_tensors", None)
    with pytest.raises(InputError, match=r"qsearch-llm\[compressed-tensors\]"):
        export(trainer, wanted, tmp_path, "compressed-tensors")


def test_groups_that_do_not_divide_a_row_are_refused(causal_study, llama_folder, tmp_path) -> None:
    trainer, wanted = causal_study(model=llama_folder)
    with pytest.raises(InputError, match=r"down_proj' has 48 input features.*groups of 32"):
        export(trainer, wanted, tmp_path, "compressed-tensors")
