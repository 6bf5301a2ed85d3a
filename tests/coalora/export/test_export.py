from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForSequenceClassification, PeftModel
from qsearch_coalora.export import merged
from qsearch_coalora.models.loading import load_config
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.packed.linear import PackedLinear
from transformers import (
    AutoModelForSequenceClassification,
)

from qsearch.deployment.exporting import FACTS_FILE
from qsearch.errors import InputError
from qsearch.space.configuration import Configuration
from qsearch.spec.sections import ModelSpec
from tests.coalora.exported import export, loaded_logits, study_logits


@torch.no_grad()
def plain_logits(trainer, configuration, folder, batch) -> torch.Tensor:
    """Quantize a fresh base model by hand, load the adapter with PEFT alone, and run it."""
    base = trainer.study.task.load_model(trainer.study.model, seed=99).module
    for name, layer in configuration.items():
        linear = base.base_model.get_submodule(name)
        quantized = trainer.study.quantizer.quantize(linear.weight, layer)
        linear.weight.copy_(trainer.study.quantizer.dequantize(quantized))
    plain = PeftModel.from_pretrained(base, str(folder)).eval()
    return plain(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 8.0},
        {"init": "shared", "alpha": 8.0, "theta": {"rank": 2}},
        {"residual_rank": 4, "theta": {"role": False, "block": False}},
        {"theta": {"adjustment": "additive"}},
    ],
)
def test_an_exported_adapter_gives_the_same_logits_in_plain_peft(
    make_trainer, make_configuration, tmp_path, options
) -> None:
    trainer = make_trainer(steps=8, learning_rate=2e-2, **options)
    wanted = make_configuration(trainer, 0)
    trainer.train([wanted, make_configuration(trainer, 1)], 1)
    batch = next(iter(trainer.study.task.batches("validation", 8)))
    expected = study_logits(trainer, wanted, batch)
    export(trainer, wanted, tmp_path, "adapter")
    found = plain_logits(trainer, wanted, tmp_path, batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_an_exported_adapter_says_what_it_is_for(packing_study, exports) -> None:
    folder = exports / "adapter"
    written = json.loads((folder / "configuration.json").read_text())
    assert written == {name: dict(layer) for name, layer in packing_study[1].items()}
    card = (folder / "README.md").read_text()
    assert "# CoA-LoRA adapter for" in card
    assert "adjustment U" in card
    assert "PeftModel.from_pretrained" in card
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["inference_mode"] is True
    assert config["modules_to_save"] == ["classifier"]
    assert config["target_modules"] == sorted(config["target_modules"])  # Else they vary.


def test_an_adapter_names_the_packed_base_next_to_it(packing_study, exports) -> None:
    _, _, batch, expected = packing_study
    model = AutoPeftModelForSequenceClassification.from_pretrained(exports / "adapter").eval()
    assert model.peft_config["default"].base_model_name_or_path == str(exports / "packed-base")
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)
    card = (exports / "adapter" / "README.md").read_text()
    assert "the packed weights of this configuration" in card
    with pytest.raises(InputError, match="cannot be merged into packed weights"):
        model.merge_and_unload()


@pytest.mark.parametrize("neighbour", ["another model's", "damaged"])
def test_an_adapter_names_no_packed_base_but_its_own(
    packing_study, exports, tmp_path, neighbour: str
) -> None:
    trainer, chosen, *_ = packing_study
    shutil.copytree(exports / "packed-base", tmp_path / "packed-base")
    if neighbour == "damaged":
        (tmp_path / "packed-base" / "config.json").write_text("[" * 100_000)
    else:
        (tmp_path / "packed-base" / FACTS_FILE).write_text('{"model": "another"}')
    export(trainer, chosen, tmp_path / "adapter", "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == trainer.study.model.name


def test_an_adapter_of_a_packaged_model_names_the_folder_of_its_float_base(
    bert_folder, make_trainer, make_configuration, tmp_path, monkeypatch
) -> None:
    shutil.copytree(bert_folder, tmp_path / "packaged" / "model")
    (tmp_path / "packaged" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    trainer = make_trainer(model="package:packaged/model")
    export(trainer, make_configuration(trainer, 0), tmp_path / "adapter", "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path / "adapter", num_labels=2
    )
    folder = str(tmp_path / "packaged" / "model")
    assert loaded.peft_config["default"].base_model_name_or_path == folder
    card = " ".join((tmp_path / "adapter" / "README.md").read_text().split())
    assert (
        'AutoPeftModelForSequenceClassification.from_pretrained("path/to/this/folder", num' in card
    )
    assert f"`{folder}`, the float model" in card


@pytest.mark.parametrize("format", ["adapter", "packed", "merged"])
def test_no_export_puts_a_second_float_model_into_memory(packing_study, tmp_path, format) -> None:
    trainer, wanted, *_ = packing_study
    trainer.place(wanted)
    export(trainer, wanted, tmp_path, format)
    weights = trainer.study.adapted.weights
    for original, layer in zip(weights.originals, trainer.study.adapted.lora_layers, strict=True):
        assert layer.base_layer.weight.data_ptr() == original.data_ptr()


def test_files_and_weights_take_the_bytes_that_average_bits_say(packing_study, exports) -> None:
    trainer, wanted, *_ = packing_study
    (bits,) = trainer.study.average_bits([wanted])
    model = AutoModelForSequenceClassification.from_pretrained(exports / "packed")
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    weight_bytes = sum(m.get_buffer(name).nbytes for m in packed for name in m.tensor_names)
    parameters = sum(layer.parameters for layer in trainer.layers())
    # Blocks of scales do not divide such small matrices; the real model's are within 1 %.
    assert weight_bytes == pytest.approx(bits * parameters / 8, rel=0.03)
    predicted = trainer.footprint().file_bytes(bits)
    assert 0.9 * predicted < file_bytes(exports / "packed") <= predicted


def test_a_packed_bases_card_says_whose_values_it_has(exports) -> None:
    card = " ".join((exports / "packed-base" / "README.md").read_text().split())
    assert "Without it the model does worse than the values below" in card


def test_packing_needs_a_quantizer_with_a_layout(
    make_trainer, make_configuration, tmp_path
) -> None:
    trainer = make_trainer()
    with pytest.raises(InputError, match=r"'rounding' cannot be exported as packed: .*layout"):
        export(trainer, make_configuration(trainer, 0), tmp_path, "packed")


def test_activating_a_configuration_clears_the_adjustments_of_the_last(
    make_trainer, make_configuration
) -> None:
    trainer = make_trainer()
    adapted = trainer.study.adapted
    adapted.peft_model.eval()
    chosen = make_configuration(trainer, 0)
    for _, B in adapted.factors():
        torch.nn.init.normal_(B)
    adapted.activate(chosen)
    batch = next(iter(trainer.study.task.batches("validation", 8)))
    with torch.no_grad():
        plain = adapted.logits(batch)
        adapted.projections.set(torch.ones(len(adapted.layers), 4, 4))
        assert not torch.equal(adapted.logits(batch), plain)
        adapted.activate(chosen)
        assert torch.equal(adapted.logits(batch), plain)


def file_bytes(folder) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_only_causal_models_cache_keys_and_values(
    packing_study, make_trainer, make_causal_task, llama_folder
) -> None:
    assert packing_study[0].footprint().cache_bytes_per_token == 0
    trainer = make_trainer(model=llama_folder, task=make_causal_task(length=32))
    outputs = sum(one.shape[0] for one in trainer.layers() if one.role in ("key", "value"))
    footprint = trainer.footprint()
    assert footprint.cache_bytes_per_token == 4 * outputs > 0
    assert footprint.tokens == 32


def test_a_study_of_a_packed_model_is_refused(exports) -> None:
    with pytest.raises(InputError, match=r"is quantized already \(quant_method 'qsearch'\)"):
        load_config(ModelSpec(name=str(exports / "packed")))


def test_a_merged_model_is_written_file_by_file(packing_study, tmp_path, monkeypatch) -> None:
    trainer, wanted, batch, expected = packing_study
    monkeypatch.setattr(merged, "_SHARD", "20KB")
    largest = []
    save = merged.save_file

    def counted(tensors, *arguments, **named):
        largest.append(sum(tensor.nbytes for tensor in tensors.values()))
        save(tensors, *arguments, **named)

    monkeypatch.setattr(merged, "save_file", counted)
    export(trainer, wanted, tmp_path, "merged")
    assert max(largest) < sum(largest) / 3
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "AutoModelForSequenceClassification.from_pretrained" in card


@pytest.mark.parametrize(("group_size", "scheme"), [(32, "symmetric"), (128, "asymmetric")])
def test_files_of_groups_that_do_not_divide_rows_take_no_more_than_the_footprint_says(
    make_trainer, tmp_path, group_size, scheme
) -> None:
    quantizer = Integer(Integer.Options(group_size=(group_size,), scheme=scheme))
    trainer = make_trainer(plugin=quantizer)  # Rows of 32 and 64 weights.
    chosen = quantizer.choices().layer_configuration(0)
    wanted = Configuration({layer.name: chosen for layer in trainer.layers()})
    export(trainer, wanted, tmp_path, "packed")
    (bits,) = trainer.study.average_bits([wanted])
    assert file_bytes(tmp_path) <= trainer.footprint().file_bytes(bits)


def test_a_card_shows_names_as_they_are(packing_study, tmp_path) -> None:
    shared, wanted, *_ = packing_study
    trainer = copy.copy(shared)
    trainer.study = replace(shared.study, model=ModelSpec(name="`<img src=x>`\n# a: [🙂"))
    loaded = {name: getattr(shared.study, name) for name in ("layers", "loaded", "adapted")}
    trainer.study.__dict__.update(loaded)
    export(trainer, wanted, tmp_path, "packed")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == trainer.study.model.name
    assert "# `'<img src=x>' # a: [🙂`, packed by qsearch" in card.text
    assert "(`pip install 'qsearch-llm[llm]'`)" in card.text
