"""The compiled product has the weights of the dequantized one, and computes few tokens alone."""

import copy
import platform
import shutil

import pytest
import qsearch_quantizers
import torch
from qsearch_quantizers.compressed_tensors.quantizer import CompressedTensors
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.libraries.hqq import HQQ
from qsearch_quantizers.libraries.torchao import TorchAO
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.packed import compiled
from qsearch_quantizers.packed.bit_packing import packed_tensors
from qsearch_quantizers.packed.linear import PackedLinear

from qsearch.errors import InputError
from qsearch.plugins.tensor_layout import SupportsLevels
from qsearch.space.configuration import LayerConfiguration

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
NORMAL_FLOAT = NormalFloat(NormalFloat.Options())
INTEGER = Integer(Integer.Options(scheme=("symmetric", "asymmetric")))
COMPRESSED = CompressedTensors(CompressedTensors.Options())
BITS = (2, 3, 4, 8)


def normal_float(bits, block=64, scale_bits=8):
    return LayerConfiguration(
        {
            "bits": bits,
            "scale_bits": scale_bits,
            "scale_dtype": "float16",
            "block_size": block,
            "scale_block_size": 16,
        }
    )


def integer(bits, scheme, group=64):
    return LayerConfiguration({"bits": bits, "group_size": group, "scheme": scheme})


def packed(quantizer, configuration, rows=37, columns=192):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    layer = PackedLinear(columns, rows, False, configuration, quantizer)
    layer.load_state_dict(packed_tensors(quantizer.quantize(weight, configuration), quantizer))
    return layer


CASES = [
    *((NORMAL_FLOAT, normal_float(bits)) for bits in BITS),
    *((NORMAL_FLOAT, normal_float(bits, 16, 3)) for bits in BITS),
    *((INTEGER, integer(bits, scheme)) for bits in BITS for scheme in ("symmetric", "asymmetric")),
    (INTEGER, integer(4, "asymmetric", 128)),  # A row's last group is shorter.
    (COMPRESSED, LayerConfiguration({"scheme": "W4A16-channel"})),
]


@needs_compiler
@pytest.mark.parametrize(("quantizer", "configuration"), CASES)
def test_its_weights_are_the_dequantized_ones_to_the_bit(quantizer, configuration):
    layer = packed(quantizer, configuration)
    weight = compiled.compiled_weight(layer)
    # A column of the weight is its product with a unit vector, exactly.
    assert torch.equal(weight.product(torch.eye(192)).T, layer.dequantized())


OLDER = {"x86-64": "DEFAULT", "haswell": "AVX2", "skylake-avx512": "AVX512"}
"""Processors whose instructions the source has other code for, and what PyTorch calls these."""


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs a processor of x86-64")
@pytest.mark.parametrize("processor", OLDER)
def test_so_they_are_on_older_processors(processor, monkeypatch):
    order = ("DEFAULT", "AVX2", "AVX512")
    if order.index(OLDER[processor]) > order.index(torch.backends.cpu.get_cpu_capability()):
        pytest.skip(f"this processor has not the instructions of {processor}")
    flags = tuple(f"-march={processor}" if "-march" in one else one for one in compiled._FLAGS)
    monkeypatch.setattr(compiled, "_FLAGS", flags)
    compiled._library.cache_clear()
    try:
        for quantizer, configuration in CASES[:4] + CASES[-4:]:
            layer = packed(quantizer, configuration)
            weight = compiled.compiled_weight(layer)
            assert torch.equal(weight.product(torch.eye(192)).T, layer.dequantized())
    finally:
        compiled._library.cache_clear()


@pytest.mark.parametrize("plugin", [HQQ, TorchAO])
def test_levels_of_other_packages_are_the_dequantized_weights(plugin):
    quantizer = plugin(plugin.Options())
    configuration = quantizer.choices().layer_configuration(5)
    generator = torch.Generator().manual_seed(0)
    layout = quantizer.layout((7, 100), configuration)
    tensors = {
        name: torch.randint(0, 2**one.bits, one.shape, dtype=torch.uint8, generator=generator)
        if one.bits
        else torch.randn(one.shape, generator=generator).to(one.dtype)
        for name, one in layout.items()
    }
    layer = PackedLinear(100, 7, False, configuration, quantizer)
    quantized = type(layer.quantized())(tensors, (7, 100), configuration)
    levels = quantizer.as_levels(quantized)
    zeros, scales = (
        one.float().repeat_interleave(levels.group_size, dim=1)
        for one in (levels.zero_points, levels.scales)
    )
    assert torch.equal((levels.codes - zeros) * scales, quantizer.dequantize(quantized))


@needs_compiler
def test_few_tokens_are_computed_by_it_and_more_as_before():
    layer = packed(NORMAL_FLOAT, normal_float(4))
    inputs = torch.randn(9, 192, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = layer(inputs)
        assert qsearch_quantizers.use_compiled_product(layer) == []
        assert torch.equal(layer(inputs), before)
        few = layer(inputs[: compiled.MAX_TOKENS])
    expected = before[: compiled.MAX_TOKENS]
    assert not torch.equal(few, expected)
    torch.testing.assert_close(few, expected, atol=2e-5, rtol=1e-5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        assert torch.equal(layer(inputs[:2]), few[:2])
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


@needs_compiler
def test_a_model_that_pytorch_compiles_too_computes_the_same():
    layer = packed(NORMAL_FLOAT, normal_float(4))
    qsearch_quantizers.use_compiled_product(layer)
    model = torch.nn.Sequential(layer, torch.nn.ReLU())
    inputs = torch.randn(1, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(torch.compile(model, backend="aot_eager")(inputs), model(inputs))


@needs_compiler
@pytest.mark.parametrize(("rank", "bits"), [(5, None), (16, None), (4, 8)])
def test_an_adapter_and_a_bias_are_added(rank, bits):
    configuration = normal_float(4)
    layer = PackedLinear(192, 37, True, configuration, NORMAL_FLOAT, rank=rank, adapter_bits=bits)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) / 10)
            else:
                tensor.random_(0, 100, generator=generator)
        inputs = torch.randn(2, 1, 192, generator=generator)
        expected = layer(inputs)
        layer.compiled = compiled.compiled_weight(layer)
        torch.testing.assert_close(layer(inputs), expected, atol=1e-4, rtol=1e-5)
    for parameter in layer.parameters():
        parameter.grad = None
    layer(inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@needs_compiler
def test_gradients_types_and_copies_are_those_of_a_packed_layer():
    layer = packed(NORMAL_FLOAT, normal_float(4))
    names = list(layer.state_dict())
    qsearch_quantizers.use_compiled_product(layer)
    assert list(layer.state_dict()) == names
    inputs = torch.randn(2, 192, requires_grad=True)
    layer(inputs).sum().backward()
    torch.testing.assert_close(inputs.grad, layer.dequantized().sum(dim=0).expand(2, -1))
    assert layer(torch.randn(1, 192, dtype=torch.bfloat16)).dtype == torch.bfloat16
    inputs = inputs.detach()
    assert torch.equal(copy.deepcopy(layer)(inputs), layer(inputs))


@needs_compiler
def test_layers_that_it_cannot_compute_are_named():
    class Other:
        """A quantizer without levels."""

        def __init__(self):
            self.name, self.choices = "other", INTEGER.choices
            self.layout, self.dequantize = INTEGER.layout, INTEGER.dequantize
            self.quantize = INTEGER.quantize

    model = torch.nn.ModuleDict(
        {
            "whole": packed(INTEGER, integer(2, "symmetric")),
            "words": packed(NORMAL_FLOAT, normal_float(2), columns=72),
            "other": packed(Other(), integer(4, "symmetric")),
            "float8": packed(COMPRESSED, LayerConfiguration({"scheme": "FP8"})),
            "elsewhere": packed(INTEGER, integer(4, "symmetric")).to("meta"),
        }
    )
    assert not isinstance(Other(), SupportsLevels)
    assert qsearch_quantizers.use_compiled_product(model) == [
        "words",
        "other",
        "float8",
        "elsewhere",
    ]


@pytest.mark.parametrize(
    ("compiler", "message"),
    [("no-such-compiler", "'no-such-compiler' cannot be run"), ("false", "false cannot compile")],
)
def test_a_compiler_that_is_missing_or_fails_is_an_error(compiler, message, monkeypatch):
    compiled._library.cache_clear()
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(InputError, match=message):
        qsearch_quantizers.use_compiled_product(packed(INTEGER, integer(4, "symmetric")))
