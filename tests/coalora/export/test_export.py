from __future__ import annotations

import copy
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForSequenceClassification, PeftModel
from qsearch_coalora.methods.coa_lora import CoALoRATrainer
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.models.loading import load_config
from qsearch_coalora.models.stored_type import stored_type
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.packed import checkpoints
from qsearch_quantizers.packed.linear import PackedLinear
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification

from qsearch.deployment.exporting import FACTS_FILE
from qsearch.deployment.storage_options import StorageOptions
from qsearch.errors import InputError
from qsearch.plugins.registry import load_plugin
from qsearch.plugins.stored_bytes import stored_bytes
from qsearch.spec.sections import ModelSpec
from qsearch.testing.samples import draw_configurations
from tests.coalora.exported import export, loaded_logits, study_logits, weight_files


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


@pytest.mark.parametrize("format", ["adapter", "packed", "packed-base", "merged"])
def test_exporting_twice_gives_the_same_bytes(packing_study, tmp_path, format) -> None:
    trainer, chosen, *_ = packing_study
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        export(trainer, chosen, tmp_path / folder, format)
    written = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert written == sorted(path.name for path in (tmp_path / "second").iterdir())
    for name in written:
        first, second = (tmp_path / folder / name for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), name


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


def test_only_causal_models_cache_keys_and_values(
    packing_study, make_trainer, make_causal_task, llama_folder
) -> None:
    assert packing_study[0].footprint().running.cache_bytes_per_token == 0
    trainer = make_trainer(model=llama_folder, task=make_causal_task(length=32))
    outputs = sum(one.shape[0] for one in trainer.layers() if one.role in ("key", "value"))
    footprint = trainer.footprint().running
    assert footprint.cache_bytes_per_token == 4 * outputs > 0
    assert footprint.tokens == 32


def test_a_study_of_a_packed_model_is_refused(exports) -> None:
    with pytest.raises(InputError, match=r"is quantized already \(quant_method 'qsearch'\)"):
        load_config(ModelSpec(name=str(exports / "packed")))


def test_a_large_merged_model_is_written_in_several_files(
    packing_study, tmp_path, monkeypatch
) -> None:
    trainer, wanted, batch, expected = packing_study
    monkeypatch.setattr(checkpoints, "MAX_FILE_BYTES", 20_000)
    assert export(trainer, wanted, tmp_path, "merged") == weight_files(tmp_path)
    assert len(weight_files(tmp_path)) > 3
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "AutoModelForSequenceClassification.from_pretrained" in card


@pytest.mark.parametrize(
    "plugin",
    [
        NormalFloat(NormalFloat.Options()),
        Integer(Integer.Options(group_size=(32,), scheme="symmetric")),
        Integer(Integer.Options(group_size=(128,), scheme="asymmetric")),  # Rows of 32 and 64.
    ],
)
@pytest.mark.parametrize("method", [CoALoRATrainer, PTQTrainer])
def test_a_footprint_says_what_the_files_of_every_configuration_take(
    make_trainer, tmp_path, plugin, method
) -> None:
    trainer = make_trainer(plugin=plugin, method=method)
    footprint = trainer.footprint()
    for number, wanted in enumerate(draw_configurations(trainer.layers(), plugin.choices(), 3)):
        trainer.train([wanted], 1)
        export(trainer, wanted, tmp_path / str(number), "packed", "auto")
        (written,) = weight_files(tmp_path / str(number)).values()
        quantized = sum(
            stored_bytes(plugin, layer.shape, wanted[layer.name]) for layer in trainer.layers()
        )
        # Offsets in the header have as many digits as the largest, and types their longest names.
        spare = footprint.fixed_bytes + quantized - written
        assert 0 <= spare <= 16 * len(load_file(tmp_path / str(number) / "model.safetensors"))


def test_a_footprints_memory_has_the_types_that_are_in_memory(packing_study, tmp_path) -> None:
    trainer, wanted, *_ = packing_study
    export(trainer, wanted, tmp_path, "packed", "auto")
    stored = sum(tensor.nbytes for tensor in load_file(tmp_path / FILE).values())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    held = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert held == stored + trainer.footprint().running.loading_bytes > 1.2 * stored


BITS = {"bfloat16": 8, "float16": 11}
"""Bits of a value's significand."""


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("format", ["packed", "packed-base", "merged", "adapter"])
def test_what_is_stored_in_16_bits_computes_what_the_study_does_but_for_their_rounding(
    packing_study, exports, tmp_path, format, dtype
) -> None:
    trainer, wanted, batch, expected = packing_study
    out = tmp_path / "out"
    assert export(trainer, wanted, out, format, dtype) == weight_files(out)
    (name,) = weight_files(out)
    stored = {tensor.dtype for tensor in load_file(out / name).values()}
    assert torch.float32 not in stored - {*scale_types(exports)}
    if format == "packed-base":
        return
    if format == "adapter":
        base = AutoModelForSequenceClassification.from_pretrained(exports / "packed-base")
        model = PeftModel.from_pretrained(base, str(out)).eval()
    else:
        model = AutoModelForSequenceClassification.from_pretrained(out)
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    # Each value is off by half a unit of its last place; so many roundings add up in a logit.
    off = (loaded_logits(model, batch) - expected).abs().max() / expected.abs().max()
    assert 0 < off <= 8 * 2.0 ** -BITS[dtype]


def scale_types(exports) -> set[torch.dtype]:
    """Types of the scales that normal float asks for, some of them float32."""
    return {t.dtype for n, t in load_file(exports / "packed" / FILE).items() if "scale" in n}


FILE = "model.safetensors"


def test_an_adapter_of_8_bits_computes_what_the_study_does_but_for_its_rounding(
    packing_study, tmp_path
) -> None:
    trainer, wanted, batch, expected = packing_study
    sizes = {}
    for bits in (None, 8):
        out = tmp_path / str(bits)
        assert export(trainer, wanted, out, "packed", "auto", bits) == weight_files(out)
        sizes[bits] = sum(one.nbytes for one in load_file(out / FILE).values())
    counts = [4 * features for layer in trainer.layers() for features in layer.shape]
    # A byte a weight instead of two, and a scale of two bytes for every 64.
    saved = sum(count - 2 * math.ceil(count / 64) for count in counts)
    assert sizes[None] - sizes[8] == saved
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "8")
    off = (loaded_logits(model, batch) - expected).abs().max() / expected.abs().max()
    assert 0 < off <= 8 / 127


def test_an_adapter_of_8_bits_needs_a_format_and_an_adapter(
    packing_study, make_trainer, tmp_path
) -> None:
    trainer, wanted, *_ = packing_study
    with pytest.raises(InputError, match=r"'merged' does not store an adapter .* do: packed$"):
        export(trainer, wanted, tmp_path, "merged", adapter_bits=8)
    plain = make_trainer(plugin=trainer.study.quantizer, method=PTQTrainer, fine_tune=False)
    plain.train([wanted], 1)
    plain.load_state(plain.state())
    with pytest.raises(InputError, match=r"--adapter-bits 8: this study's conf.* have no adapter"):
        export(plain, wanted, tmp_path, "packed", adapter_bits=8)


def test_a_head_that_float16_cannot_hold_is_refused(packing_study, tmp_path) -> None:
    trainer, wanted, *_ = packing_study
    (name, bias), *_ = (
        (name, one)
        for name, one in trainer.study.adapted.head_parameters().items()
        if one.dim() == 1
    )
    before = bias.detach().clone()
    try:
        bias.data[0] = 7e4
        with pytest.raises(InputError, match=rf"--dtype float16: .*{name} has a value of size 7e"):
            export(trainer, wanted, tmp_path, "packed", "float16")
    finally:
        bias.data.copy_(before)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_type_of_a_checkpoint_of_16_bits_is_kept(
    bert_folder, tmp_path, stored, expected
) -> None:
    model = AutoModel.from_pretrained(bert_folder, dtype=stored)
    model.save_pretrained(tmp_path / "safetensors")
    assert stored_type(ModelSpec(name=str(tmp_path / "safetensors"))) == expected
    # Without safetensors, the configuration says it.
    (tmp_path / "safetensors" / "model.safetensors").unlink()
    assert stored_type(ModelSpec(name=str(tmp_path / "safetensors"))) == expected


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
    assert "(`pip install qsearch-llm`)" in card.text


def test_a_study_may_count_and_store_its_adapter_in_codes(
    make_trainer, make_configuration, tmp_path
) -> None:
    plugin = NormalFloat(NormalFloat.Options())
    whole, coded = (make_trainer(plugin=plugin, adapter_bits=bits) for bits in (None, 8))
    chosen = make_configuration(coded, 0)
    sizes = []
    for trainer in (whole, coded):
        packed = load_plugin("exporters", "packed")()
        job = StorageOptions().job(trainer.export_job(chosen), packed)
        packed.write(job, tmp_path / str(job.storage.adapter_bits))
        sizes.append(sum(weight_files(tmp_path / str(job.storage.adapter_bits)).values()))
    saved = whole.footprint().adapter_bytes - coded.footprint().adapter_bytes
    headers = 300 * len(coded.layers())  # Codes and scales have names of their own.
    assert 0 < saved - (sizes[0] - sizes[1]) < headers
    # Formats that store no codes have the values.
    merged = StorageOptions().job(coded.export_job(chosen), load_plugin("exporters", "merged")())
    assert merged.storage.adapter_bits is None
