"""A packed embedding gives the rows of its dequantized table, and dequantizes no others."""

import pytest
import torch
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.packed import embedding as packed_embedding
from qsearch_quantizers.packed import weight as packed_weight
from qsearch_quantizers.packed.bit_packing import packed_tensors
from qsearch_quantizers.packed.embedding import PackedEmbedding, TiedHead

NORMAL_FLOAT = NormalFloat(NormalFloat.Options())
INTEGER = Integer(Integer.Options(scheme=("symmetric", "asymmetric")))
EITHER = pytest.mark.parametrize("quantizer", [NORMAL_FLOAT, INTEGER], ids=lambda one: one.name)


def packed_table(quantizer, rows, columns, index=0, **options):
    configuration = quantizer.choices().layer_configuration(index)
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    table = PackedEmbedding(rows, columns, configuration, quantizer, **options)
    tensors = packed_tensors(quantizer.quantize(weight, configuration), quantizer)
    table.load_state_dict(tensors)
    return table


class Whole:
    """A quantizer that knows no rows, such as another package's."""

    def __init__(self, quantizer):
        self.name, self.choices, self.layout = quantizer.name, quantizer.choices, quantizer.layout
        self.storage_bits = quantizer.storage_bits
        self.quantize, self.dequantize = quantizer.quantize, quantizer.dequantize


class ByBlock(Whole):
    """A quantizer that dequantizes blocks of rows, and looks none up."""

    def __init__(self, quantizer):
        super().__init__(quantizer)
        self.dequantize_rows = quantizer.dequantize_rows


@EITHER
@pytest.mark.parametrize("columns", [7, 48, 100])
@pytest.mark.parametrize("index", range(0, 24, 5))
def test_rows_are_those_of_the_dequantized_table(quantizer, columns, index, monkeypatch):
    monkeypatch.setattr(packed_embedding, "BLOCK_WEIGHTS", 3 * columns)
    table = packed_table(quantizer, 41, columns, index)
    ids = torch.tensor([[0, 40, 7, 7], [33, 1, 2, 40]])
    assert torch.equal(table(ids), table.dequantized()[ids])


@EITHER
def test_rows_that_are_asked_for_are_dequantized_once_and_no_others(quantizer, monkeypatch):
    table = packed_table(quantizer, 5000, 48)
    expected = table.dequantized()
    asked, elements, dequantized = [], [], []
    look_up, dequantize = quantizer.look_up, quantizer.dequantize

    def counted(elements_of, shape, configuration, rows):
        def noted(name):
            def at(positions):
                elements.append(positions.numel())
                return elements_of[name](positions)

            return at

        asked.append(rows.tolist())
        return look_up({name: noted(name) for name in elements_of}, shape, configuration, rows)

    def counted_too(quantized):
        dequantized.append(quantized.shape[0])
        return dequantize(quantized)

    monkeypatch.setattr(quantizer, "look_up", counted, raising=False)
    monkeypatch.setattr(quantizer, "dequantize", counted_too, raising=False)
    monkeypatch.setattr(quantizer, "dequantize_rows", None, raising=False)
    ids = torch.tensor([[4999, 3, 3], [0, 3, 4999]])
    assert torch.equal(table(ids), expected[ids])
    assert asked == [[0, 3, 4999]]
    assert max(elements) <= 3 * 48
    assert sum(dequantized) <= 3


@pytest.mark.parametrize("kind", [Whole, ByBlock])
def test_a_quantizer_that_looks_no_rows_up_works_too(kind, monkeypatch):
    monkeypatch.setattr(packed_weight, "BLOCK_WEIGHTS", 5 * 48)
    table = packed_table(kind(INTEGER), 41, 48)
    ids = torch.tensor([[0, 40, 7], [33, 33, 2]])
    assert torch.equal(table(ids), table.dequantized()[ids])


def test_no_ids_give_no_rows():
    assert packed_table(INTEGER, 5, 32)(torch.empty(2, 0, dtype=torch.long)).shape == (2, 0, 32)


@pytest.mark.parametrize("wrong", [-1, 41])
def test_an_id_beyond_the_table_is_an_error(wrong):
    with pytest.raises(IndexError, match="embedding of 41 rows"):
        packed_table(INTEGER, 41, 32)(torch.tensor([0, wrong]))


def test_rows_are_scaled_in_the_type_of_the_model():
    table = packed_table(INTEGER, 41, 32, scale=5.657, dtype=torch.float32)
    ids = torch.tensor([3, 40])
    torch.testing.assert_close(table(ids), table.dequantized()[ids] * 5.657)
    before = table.dequantized()
    table.to(torch.bfloat16)
    assert torch.equal(table.dequantized(), before)
    expected = before[ids].bfloat16() * torch.tensor(5.657).bfloat16()
    assert torch.equal(table(ids), expected)


def test_a_tied_head_computes_with_the_table_by_block(monkeypatch):
    monkeypatch.setattr(packed_weight, "BLOCK_WEIGHTS", 5 * 48)
    table = packed_table(NORMAL_FLOAT, 41, 48)
    seen = []
    dequantize_rows = NORMAL_FLOAT.dequantize_rows

    def counted(quantized, first, last):
        seen.append(last - first)
        return dequantize_rows(quantized, first, last)

    monkeypatch.setattr(NORMAL_FLOAT, "dequantize_rows", counted, raising=False)
    head = TiedHead(table, torch.nn.Parameter(torch.randn(41)))
    inputs = torch.randn(2, 3, 48, requires_grad=True)
    outputs = head(inputs)
    assert seen == [5] * 8 + [1]
    expected = torch.nn.functional.linear(inputs, table.dequantized(), head.bias)
    torch.testing.assert_close(outputs, expected)
    (actual,) = torch.autograd.grad(outputs.square().sum(), inputs)
    (right,) = torch.autograd.grad(expected.square().sum(), inputs)
    torch.testing.assert_close(actual, right, atol=1e-4, rtol=1e-4)
    assert set(head.state_dict()) == {"bias"}
