"""QLoRA's layers of bitsandbytes, and adapters that were trained on them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from qsearch_coalora.methods import nf4
from qsearch_coalora.methods.nf4 import NF4, FourBitLayers, in_four_bit
from qsearch_coalora.methods.qlora import QLoRATrainer
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from safetensors.torch import load_file

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration
from qsearch.space.layers import LayerSpec


def test_bitsandbytes_gets_no_matrix_whose_rows_it_would_decode_wrongly() -> None:
    layers = [LayerSpec("whole", "query", 0, (96, 64)), LayerSpec("not", "key", 0, (64, 96))]
    assert in_four_bit(layers, Configuration({"whole": NF4, "not": NF4})) == ["whole"]


def test_bitsandbytes_layers_are_where_the_configuration_is_nf4() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    plugin = NormalFloat(NormalFloat.Options())
    layers = [LayerSpec(name, "query", 0, (96, 64)) for name in ("first", "second")]
    lora_layers = [SimpleNamespace(base_layer=torch.nn.Linear(64, 96)) for _ in layers]
    originals = [layer.base_layer.weight.data for layer in lora_layers]
    four_bit = FourBitLayers(layers, lora_layers, originals)
    other = plugin.choices().layer_configuration(0)
    four_bit.place(Configuration({"first": NF4, "second": other}))
    placed = lora_layers[0].base_layer
    assert isinstance(placed, bitsandbytes.nn.Linear4bit)
    assert type(lora_layers[1].base_layer) is torch.nn.Linear
    inputs = torch.randn(5, 64)
    ours = plugin.dequantize(plugin.quantize(originals[0], NF4))
    mine = torch.nn.functional.linear(inputs, ours, placed.bias)
    exact = torch.nn.functional.linear(inputs, originals[0], placed.bias)
    # Our quantizer refines its scales, so the codes differ; the errors are of one size.
    ratio = float((placed(inputs) - exact).norm() / (mine - exact).norm())
    assert 0.8 < ratio < 1.3
    four_bit.place(Configuration({"first": other, "second": other}))
    assert type(lora_layers[0].base_layer) is torch.nn.Linear


def test_bitsandbytes_layers_train_after_they_were_evaluated(make_trainer) -> None:
    pytest.importorskip("bitsandbytes")
    # The small model's layers are below the size from which bitsandbytes decodes rightly.
    with mock.patch.object(nf4, "_BLOCK", 1):
        trainer = make_trainer(
            plugin=NormalFloat(NormalFloat.Options()), method=QLoRATrainer, steps=2
        )
        names = [layer.name for layer in trainer.layers()]
        other = trainer.study.quantizer.choices().layer_configuration(0)
        all_nf4 = Configuration(dict.fromkeys(names, NF4))
        nearly = Configuration({name: NF4 if name != names[0] else other for name in names})
        trainer.train([all_nf4], 1)
        sensitivity = trainer.sensitivity([all_nf4], 1)
        assert sensitivity.shape == (len(names),)
        assert (sensitivity > 0).all()
        first, second = trainer.evaluate([all_nf4, nearly], "validation")
        assert first.loss != second.loss
        assert trainer.train([nearly], 2).steps == 0


def test_weights_of_bitsandbytes_are_not_exported_as_ours(make_trainer, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with mock.patch.object(nf4, "_BLOCK", 1):
        trainer = make_trainer(
            plugin=NormalFloat(NormalFloat.Options()), method=QLoRATrainer, steps=1
        )
        names = [layer.name for layer in trainer.layers()]
        all_nf4 = Configuration(dict.fromkeys(names, NF4))
        trainer.train([all_nf4], 1)
        with pytest.raises(InputError, match=r"packed: .* bitsandbytes quantized \(12 layers"):
            trainer.export(all_nf4, tmp_path / "packed", "packed")
        trainer.export(all_nf4, tmp_path / "adapter", "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "# QLoRA adapter for" in card
    assert "adjustment U" not in card
    assert f"quantized by bitsandbytes (`nf4`, double quantization): {names[0]}, " in card


def test_an_export_holds_nothing_of_bitsandbytes_of_an_earlier_configuration(
    make_trainer, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    plugin = NormalFloat(NormalFloat.Options())
    with mock.patch.object(nf4, "_BLOCK", 1):
        trainer = make_trainer(plugin=plugin, method=QLoRATrainer, steps=1)
        names = [layer.name for layer in trainer.layers()]
        other = plugin.choices().layer_configuration(0)
        trainer.evaluate([Configuration(dict.fromkeys(names, NF4))], "validation")
        trainer.export(Configuration(dict.fromkeys(names, other)), tmp_path, "packed")
    found = load_file(tmp_path / "model.safetensors")
    inside = {"codes", "scale_codes", "scales", "adapter_A", "adapter_B", "bias"}
    for name in names:
        prefix = f"bert.{name}."
        assert {k.removeprefix(prefix) for k in found if k.startswith(prefix)} == inside


def test_what_was_trained_on_weights_of_bitsandbytes_is_not_loaded_without(make_trainer) -> None:
    pytest.importorskip("bitsandbytes")
    plugin = NormalFloat(NormalFloat.Options())
    other = plugin.choices().layer_configuration(0)
    without = mock.patch("qsearch_coalora.methods.qlora.is_importable", return_value=False)
    for chosen, loads in ((NF4, False), (other, True)):
        with mock.patch.object(nf4, "_BLOCK", 1):
            trainer = make_trainer(plugin=plugin, method=QLoRATrainer, steps=1)
            names = [layer.name for layer in trainer.layers()]
            trainer.train([Configuration(dict.fromkeys(names, chosen))], 1)
            state = trainer.state()
            expected = nullcontext() if loads else pytest.raises(InputError, match="bitsandbytes")
            with without, expected:
                make_trainer(plugin=plugin, method=QLoRATrainer, steps=1).load_state(state)


def test_qlora_places_them_with_normal_float_alone(make_trainer, make_configuration) -> None:
    pytest.importorskip("bitsandbytes")
    for plugin, expected in ((NormalFloat(NormalFloat.Options()), 1), (None, 0)):
        trainer = (
            make_trainer(method=QLoRATrainer)
            if plugin is None
            else make_trainer(plugin=plugin, method=QLoRATrainer)
        )
        assert len(trainer.study.adapted._followers) == expected
