"""bitsandbytes quantizer: FP4, NF4, int8 by block, double quantization."""

import pytest
import torch
from qsearch_quantizers.libraries.bitsandbytes import BitsAndBytes
from qsearch_quantizers.weights import CHUNK

from qsearch.space.configuration import LayerConfiguration
from qsearch.testing.samples import normal_weight, round_trip

functional = pytest.importorskip("bitsandbytes.functional")

QUANTIZER = BitsAndBytes(BitsAndBytes.Options())
FOUR_BITS = pytest.mark.parametrize("data_type", ["fp4", "nf4"])


def configuration(data_type="nf4", block_size=64, scale_bits=32):
    return LayerConfiguration(
        {"data_type": data_type, "block_size": block_size, "scale_bits": scale_bits}
    )


@FOUR_BITS
@pytest.mark.parametrize("block_size", [64, 128, 256, 512])
def test_four_bits_are_those_of_bitsandbytes(data_type, block_size):
    weight = normal_weight(64, 512)
    # As a vector, which bitsandbytes decodes rightly on every CPU.
    theirs = functional.quantize_4bit(weight.view(-1), blocksize=block_size, quant_type=data_type)
    restored = functional.dequantize_4bit(*theirs).view(weight.shape)
    assert torch.equal(
        round_trip(QUANTIZER, weight, configuration(data_type, block_size)), restored
    )


@FOUR_BITS
def test_double_quantization_is_that_of_bitsandbytes(data_type):
    weight = normal_weight(128, 512)
    theirs = functional.quantize_4bit(
        weight.view(-1), blocksize=64, quant_type=data_type, compress_statistics=True
    )
    restored = functional.dequantize_4bit(*theirs).view(weight.shape)
    ours = round_trip(QUANTIZER, weight, configuration(data_type, 64, 8))
    torch.testing.assert_close(ours, restored, rtol=1e-5, atol=0.0)


def test_int8_is_blockwise_quantization_with_the_linear_map_of_bitsandbytes():
    weight = normal_weight(64, 512)
    levels = functional.create_linear_map(signed=True, total_bits=8)
    codes, state = functional.quantize_blockwise(weight, code=levels, blocksize=128)
    restored = functional.dequantize_blockwise(codes, state)
    assert torch.equal(round_trip(QUANTIZER, weight, configuration("int8", 128)), restored)


@FOUR_BITS
@pytest.mark.parametrize("shape", [(3, 32), (8, 48), (64, 16), (64, 32), (33, 96), (64, 320)])
def test_rows_that_are_no_whole_blocks_are_decoded_block_by_block(data_type, shape):
    # bitsandbytes 0.50 restarts the blocks at each row of such matrices on CPUs with AVX-512.
    weight, layer = normal_weight(*shape), configuration(data_type, 128)
    quantized = QUANTIZER.quantize(weight, layer)
    packed = quantized.tensors["codes"]
    codes = torch.stack([packed >> 4, packed & 15], dim=1).view(-1).long()
    levels = functional.get_4bit_type(data_type, device="cpu")[codes]
    maxima = quantized.tensors["scales"].repeat_interleave(128)[: weight.numel()]
    torch.testing.assert_close(QUANTIZER.dequantize(quantized), (levels * maxima).view(shape))


@FOUR_BITS
def test_weights_of_many_chunks_are_quantized_as_small_ones(data_type):
    weight, layer = normal_weight(640, 512), configuration(data_type)
    assert weight.numel() > CHUNK
    parts = [round_trip(QUANTIZER, part, layer) for part in weight.split(64)]
    assert torch.equal(round_trip(QUANTIZER, weight, layer), torch.cat(parts))
