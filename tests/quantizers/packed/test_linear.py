"""A packed layer computes what its dequantized weight would, without holding it."""

import pytest
import torch
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.packed import weight as packed_weight
from qsearch_quantizers.packed.bit_packing import packed_tensors
from qsearch_quantizers.packed.linear import PackedLinear

from qsearch.plugins.tensor_layout import SupportsRows

NORMAL_FLOAT = NormalFloat(NormalFloat.Options())
INTEGER = Integer(Integer.Options())


def packed_layer(quantizer, rows, columns, index=0, rank=0, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    configuration = quantizer.choices().layer_configuration(index)
    weight = torch.randn(rows, columns, generator=generator)
    layer = PackedLinear(columns, rows, bias, configuration, quantizer, rank)
    tensors = packed_tensors(quantizer.quantize(weight, configuration), quantizer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    layer.load_state_dict({**layer.state_dict(), **tensors})
    return layer


def expected_outputs(layer, inputs):
    weight = layer.dequantized().to(inputs.dtype)
    if layer.rank:
        weight = weight + (layer.adapter_B @ layer.adapter_A).to(inputs.dtype)
    return torch.nn.functional.linear(inputs, weight, layer.bias)


@pytest.mark.parametrize("quantizer", [NORMAL_FLOAT, INTEGER], ids=["normal-float", "integer"])
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (2, 5, 7), (0, 7)])
def test_outputs_are_those_of_the_dequantized_weight(quantizer, rank, bias, shape):
    layer = packed_layer(quantizer, 11, shape[-1], rank=rank, bias=bias)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    actual = layer(inputs)
    assert actual.shape == (*shape[:-1], 11)
    torch.testing.assert_close(actual, expected_outputs(layer, inputs), atol=1e-5, rtol=1e-4)


def test_rows_are_dequantized_a_part_at_a_time(monkeypatch):
    layer = packed_layer(NORMAL_FLOAT, 64, 96, rank=2)
    inputs = torch.randn(3, 96)
    monkeypatch.setattr(packed_weight, "BLOCK_WEIGHTS", 5 * 96)
    seen = []
    whole = NORMAL_FLOAT.dequantize_rows

    def counted(quantized, first, last):
        seen.append(last - first)
        return whole(quantized, first, last)

    monkeypatch.setattr(layer.quantizer, "dequantize_rows", counted, raising=False)
    torch.testing.assert_close(layer(inputs), expected_outputs(layer, inputs), atol=1e-4, rtol=1e-4)
    assert seen == [5] * 12 + [4]


@pytest.mark.parametrize("quantizer", [NORMAL_FLOAT, INTEGER], ids=["normal-float", "integer"])
def test_gradients_are_those_of_the_dequantized_weight(quantizer):
    layer = packed_layer(quantizer, 12, 33, rank=2)
    inputs = torch.randn(4, 33, requires_grad=True)
    upstream = torch.randn(4, 12)
    variables = [inputs, layer.adapter_A, layer.adapter_B, layer.bias]
    actual = torch.autograd.grad(layer(inputs), variables, upstream)
    expected = torch.autograd.grad(expected_outputs(layer, inputs), variables, upstream)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_gradients_of_many_rows_do_not_lose_digits_in_bfloat16(monkeypatch):
    monkeypatch.setattr(packed_weight, "BLOCK_WEIGHTS", 8 * 64)
    layer = packed_layer(NORMAL_FLOAT, 4096, 64, bias=False)
    upstream = torch.randn(3, 4096, generator=torch.Generator().manual_seed(0))
    exact = upstream @ layer.dequantized()
    actual = layer.transposed_product(upstream.bfloat16()).float()
    assert (actual - exact).norm() / exact.norm() < 0.004


def test_a_gradient_of_a_gradient_is_refused():
    layer = packed_layer(NORMAL_FLOAT, 12, 33)
    inputs = torch.randn(4, 33, requires_grad=True)
    (once,) = torch.autograd.grad(layer(inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()


def test_a_move_that_fails_leaves_the_layer_as_it_was():
    layer = packed_layer(NORMAL_FLOAT, 12, 64)
    before = layer.dequantized()

    def fail(tensor):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        layer._apply(fail)
    assert torch.equal(layer.dequantized(), before)


def test_a_compiled_model_leaves_dequantizing_as_it_is():
    model = torch.nn.Sequential(packed_layer(NORMAL_FLOAT, 12, 33, rank=2), torch.nn.GELU())
    inputs = torch.randn(4, 33, requires_grad=True)
    compiled = torch.compile(model, backend="aot_eager")
    actual, expected = compiled(inputs), model(inputs)
    torch.testing.assert_close(actual, expected)
    gradients = (torch.autograd.grad(outputs.sum(), inputs) for outputs in (actual, expected))
    torch.testing.assert_close(*gradients)


def test_the_backward_pass_keeps_no_float_weight():
    layer = packed_layer(NORMAL_FLOAT, 256, 256)
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(2, 256, requires_grad=True))
    assert sum(saved) < 256 * 256


def test_a_quantizer_that_cannot_dequantize_rows_works_too():
    without_rows = type("WithoutRows", (NormalFloat,), {"dequantize_rows": None})
    layer = packed_layer(without_rows(NormalFloat.Options()), 11, 40)
    assert not isinstance(layer.quantizer, SupportsRows)
    inputs = torch.randn(2, 40)
    torch.testing.assert_close(layer(inputs), expected_outputs(layer, inputs), atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_outputs_on_a_gpu_are_those_on_the_cpu():
    layer = packed_layer(NORMAL_FLOAT, 48, 96, rank=2)
    inputs = torch.randn(5, 96)
    expected = layer(inputs)
    actual = layer.cuda()(inputs.cuda()).cpu()
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-3)
