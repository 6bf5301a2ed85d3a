"""Quantizer of the package bitsandbytes: FP4, NF4 and int8 by block (QLoRA, arXiv:2305.14314)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.knobs import KnobOptions, KnobQuantizer
from qsearch_quantizers.libraries.decoder import (
    CODE_BITS,
    SCALE_BLOCK_SIZE,
    BitsAndBytesDecoder,
    functional,
    int8_levels,
    whole_blocks,
)
from qsearch_quantizers.packed.bit_packing import packed_bytes
from qsearch_quantizers.weights import check_weight, chunk_of

DataType = Literal["fp4", "nf4", "int8"]
BlockSize = Literal[64, 128, 256, 512]
ScaleBits = Literal[8, 32]


class BitsAndBytes(KnobQuantizer, BitsAndBytesDecoder):
    """Codes of a bitsandbytes data type, blocks scaled by their absolute maxima.

    A weight is flattened row by row and cut into blocks of ``block_size``; only the last block
    can be partial.

    * ``fp4`` and ``nf4`` are bitsandbytes' 4-bit data types.
    * ``int8`` has 255 even steps from minus to plus the absolute maximum of a block, not of a row
      as LLM.int8 has: storage bits must not depend on the weight's shape.
    * ``scale_bits`` 32 keeps the absolute maxima in float32; 8 is double quantization, which
      quantizes their differences from their mean to bitsandbytes' dynamic 8-bit data type. That
      mean, one float32 a weight, is not counted in the storage bits.
    """

    class Options(KnobOptions):
        """Which values of each knob a study may use."""

        data_type: tuple[DataType, ...] = ("fp4", "nf4", "int8")
        block_size: tuple[BlockSize, ...] = (64, 128, 256, 512)
        scale_bits: tuple[ScaleBits, ...] = (8, 32)

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return b + 32/B, or with double quantization b + 8/B + 32/(256·B), bits per weight."""
        block_size = configuration.integer("block_size")
        scale_bits: float = configuration.integer("scale_bits")
        if scale_bits == 8:
            scale_bits += 32 / SCALE_BLOCK_SIZE
        return CODE_BITS[configuration.text("data_type")] + scale_bits / block_size

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight.

        Returns:
            ``codes`` (uint8, two 4-bit codes a byte), and ``scales`` (blocks, float32) or, with
            double quantization, ``scale_codes`` (blocks, uint8), ``scales`` (scale blocks,
            float32) and ``scale_offset`` (1, float32).
        """
        self._choices.index(configuration)
        check_weight(weight)
        data_type, size = configuration.text("data_type"), configuration.integer("block_size")
        codes, maxima = _quantize_blocks(weight.detach().contiguous().view(-1), data_type, size)
        tensors = {"codes": codes, "scales": maxima}
        if configuration.integer("scale_bits") == 8:
            # In float64, so that the mean does not depend on the number of threads.
            offset = maxima.double().mean().float()
            scale_codes, state = functional().quantize_blockwise(
                maxima - offset, blocksize=SCALE_BLOCK_SIZE
            )
            tensors |= {
                "scale_codes": scale_codes,
                "scales": state.absmax,
                "scale_offset": offset.view(1),
            }
        return QuantizedTensor(tensors, (weight.shape[0], weight.shape[1]), configuration)


def _quantize_blocks(flat: Tensor, data_type: str, size: int) -> tuple[Tensor, Tensor]:
    """Return packed codes and the blocks' absolute maxima."""
    library, bits = functional(), CODE_BITS[data_type]
    blocks = -(-flat.numel() // size)
    codes = torch.empty(packed_bytes(flat.numel(), bits), dtype=torch.uint8, device=flat.device)
    maxima = torch.empty(blocks, dtype=torch.float32, device=flat.device)
    step = chunk_of(blocks, size, flat.device)
    for first in range(0, blocks, step):
        part = whole_blocks(flat[first * size : (first + step) * size].float(), size)
        if data_type == "int8":
            levels = int8_levels(flat.device)
            packed, state = library.quantize_blockwise(part, code=levels, blocksize=size)
        else:
            packed, state = library.quantize_4bit(part, blocksize=size, quant_type=data_type)
        target = codes[first * size * bits // 8 :][: packed.numel()]
        target.copy_(packed.view(-1)[: target.numel()])
        maxima[first : first + step] = state.absmax
    return codes, maxima
