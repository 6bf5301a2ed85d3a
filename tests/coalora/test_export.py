from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from qsearch_coalora.packed_loading import load_packed
from qsearch_quantizers.normal_float import NormalFloat

from qsearch.errors import InputError


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


def test_a_packed_export_gives_the_same_logits(make_trainer, make_configuration, tmp_path) -> None:
    quantizer = NormalFloat(NormalFloat.Options())
    quantizer.options = NormalFloat.Options()
    trainer, wanted = trained(make_trainer, make_configuration, plugin=quantizer)
    batch = next(iter(trainer.task.batches("validation", 8)))
    expected = study_logits(trainer, wanted, batch)
    trainer.export(wanted, tmp_path, "packed")
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        found = load_packed(tmp_path)(**inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert "load_packed" in (tmp_path / "README.md").read_text()


def test_packing_needs_a_quantizer_that_says_its_options(
    make_trainer, make_configuration, tmp_path
) -> None:
    trainer = make_trainer()
    del trainer.quantizer.options
    with pytest.raises(InputError, match="'rounding' cannot be exported as packed"):
        trainer.export(make_configuration(trainer, 0), tmp_path, "packed")


def test_a_folder_without_an_adapter_is_no_packed_export(tmp_path) -> None:
    with pytest.raises(InputError, match="no packed export"):
        load_packed(tmp_path)


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
