"""QLoRA's layers of bitsandbytes, and adapters that were trained on them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from qsearch_coalora.methods import nf4
from qsearch_coalora.methods.nf4 import NF4, four_bit_layers, in_four_bit
from qsearch_coalora.methods.qlora import QLoRATrainer
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from safetensors.torch import load_file

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import LayerSpec
from tests.coalora.exported import export

OTHER = NormalFloat(NormalFloat.Options()).choices().layer_configuration(0)


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
    place = four_bit_layers(layers, lora_layers, originals)
    place(Configuration({"first": NF4, "second": OTHER}))
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
    place(Configuration({"first": OTHER, "second": OTHER}))
    assert type(lora_layers[0].base_layer) is torch.nn.Linear


@pytest.fixture
def nf4_trainer(make_trainer, monkeypatch: pytest.MonkeyPatch):
    """QLoRA's trainer with normal float, where bitsandbytes is installed."""
    pytest.importorskip("bitsandbytes")
    # The small model's layers are below the size from which bitsandbytes decodes rightly.
    monkeypatch.setattr(nf4, "_BLOCK", 1)
    return make_trainer(plugin=NormalFloat(NormalFloat.Options()), method=QLoRATrainer, steps=1)


def all_of(trainer, chosen: LayerConfiguration) -> Configuration:
    return Configuration({layer.name: chosen for layer in trainer.layers()})


def test_bitsandbytes_layers_train_after_they_were_evaluated(nf4_trainer) -> None:
    all_nf4 = all_of(nf4_trainer, NF4)
    nearly = Configuration({**all_nf4, nf4_trainer.layers()[0].name: OTHER})
    nf4_trainer.train([all_nf4], 1)
    assert (nf4_trainer.sensitivity([all_nf4], 1) > 0).all()
    first, second = nf4_trainer.evaluate([all_nf4, nearly], "validation")
    assert first.loss != second.loss
    assert nf4_trainer.train([nearly], 2).steps == 0


def test_weights_of_bitsandbytes_are_not_exported_as_ours(nf4_trainer, tmp_path: Path) -> None:
    all_nf4 = all_of(nf4_trainer, NF4)
    with pytest.raises(InputError, match=r"bitsandbytes quantized \(12 layers"):
        export(nf4_trainer, all_nf4, tmp_path / "packed", "packed")
    export(nf4_trainer, all_nf4, tmp_path / "adapter", "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "# QLoRA adapter for" in card
    assert "adjustment U" not in card
    name = nf4_trainer.layers()[0].name
    assert f"quantized by bitsandbytes (`nf4`, double quantization): {name}, " in card


def test_an_export_holds_nothing_of_bitsandbytes_of_an_earlier_configuration(
    nf4_trainer, tmp_path: Path
) -> None:
    nf4_trainer.evaluate([all_of(nf4_trainer, NF4)], "validation")
    export(nf4_trainer, all_of(nf4_trainer, OTHER), tmp_path, "packed")
    tensors = load_file(tmp_path / "model.safetensors")
    inside = {"codes", "scale_codes", "scales", "adapter_A", "adapter_B", "bias"}
    for layer in nf4_trainer.layers():
        prefix = f"bert.{layer.name}."
        assert {k.removeprefix(prefix) for k in tensors if k.startswith(prefix)} == inside


@pytest.mark.parametrize("is_nf4", [True, False])
def test_what_was_trained_on_weights_of_bitsandbytes_is_not_loaded_without(
    nf4_trainer, make_trainer, is_nf4: bool
) -> None:
    nf4_trainer.train([all_of(nf4_trainer, NF4 if is_nf4 else OTHER)], 1)
    state = nf4_trainer.state()
    without = mock.patch("qsearch_coalora.methods.qlora.is_importable", return_value=False)
    refused = pytest.raises(InputError, match="bitsandbytes") if is_nf4 else nullcontext()
    plugin = NormalFloat(NormalFloat.Options())
    with without, refused:
        make_trainer(plugin=plugin, method=QLoRATrainer, steps=1).load_state(state)
