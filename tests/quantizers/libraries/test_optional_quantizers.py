"""What the quantizers of other packages have in common; what is their own has a file for each."""

import sys

import pytest
import torch
from qsearch_quantizers.libraries.bitsandbytes import BitsAndBytes
from qsearch_quantizers.libraries.hqq import HQQ
from qsearch_quantizers.libraries.optional import is_importable
from qsearch_quantizers.libraries.torchao import TorchAO

from qsearch.errors import InputError
from qsearch.testing.samples import normal_weight, round_trip


@pytest.fixture(params=[BitsAndBytes, HQQ, TorchAO], ids=lambda plugin: plugin.name)
def quantizer(request):
    """One of a package of its name; the test is skipped without it."""
    pytest.importorskip(request.param.name)
    return request.param(request.param.Options())


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_huge_and_tiny_weights_stay_finite(quantizer, scale):
    weight = normal_weight(5, 67, 0.02 * scale)
    for layer in quantizer.choices().layer_configurations:
        assert round_trip(quantizer, weight, layer).isfinite().all()


@pytest.mark.parametrize("quantizer", [HQQ, TorchAO], indirect=True)
def test_the_last_shorter_group_of_a_row_is_a_group_of_its_own(quantizer):
    weight = normal_weight(8, 300)
    for layer in quantizer.choices().layer_configurations:
        parts = weight.split(300 // layer.integer("group_size") * layer.integer("group_size"), 1)
        restored = torch.cat([round_trip(quantizer, part, layer) for part in parts], dim=1)
        assert torch.equal(round_trip(quantizer, weight, layer), restored)


def test_a_missing_package_names_the_extra(quantizer, monkeypatch):
    name, weight = quantizer.name, normal_weight(2, 100)
    first = quantizer.choices().layer_configuration(0)
    quantized = quantizer.quantize(weight, first)
    restored = quantizer.dequantize(quantized)
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"quantizer '{name}' needs .* pip install 'qsearch-llm\[{name}\]'"
    with pytest.raises(InputError, match=message):
        quantizer.quantize(weight, first)
    if name == "bitsandbytes":
        with pytest.raises(InputError, match=message):
            quantizer.dequantize(quantized)
    else:
        assert torch.equal(quantizer.dequantize(quantized), restored)


def test_a_package_that_fails_while_it_is_imported_is_not_importable(tmp_path, monkeypatch):
    (tmp_path / "of_another_cuda.py").write_text("raise OSError('libcudart.so: no such file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_importable("of_another_cuda")
    assert not is_importable("no_such_package")
    assert is_importable("json")
