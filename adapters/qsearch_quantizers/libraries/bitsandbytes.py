"""Quantizer of the package bitsandbytes: FP4, NF4 and int8 by block (QLoRA, arXiv:2305.14314)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import Elements, TensorLayout
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.knobs import KnobOptions, KnobQuantizer
from qsearch_quantizers.libraries.optional import optional_module
from qsearch_quantizers.packed.bit_packing import codes_at, packed_bytes, row_positions
from qsearch_quantizers.weights import check_weight, chunk_of

DataType = Literal["fp4", "nf4", "int8"]
BlockSize = Literal[64, 128, 256, 512]
ScaleBits = Literal[8, 32]

CODE_BITS: dict[str, int] = {"fp4": 4, "nf4": 4, "int8": 8}
SCALE_BLOCK_SIZE = 256
"""Blocks whose quantized scales share a float32 one in bitsandbytes' double quantization."""


class BitsAndBytes(KnobQuantizer):
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

    name = "bitsandbytes"

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
            scale_codes, state = _functional().quantize_blockwise(
                maxima - offset, blocksize=SCALE_BLOCK_SIZE
            )
            tensors |= {
                "scale_codes": scale_codes,
                "scales": state.absmax,
                "scale_offset": offset.view(1),
            }
        return QuantizedTensor(tensors, (weight.shape[0], weight.shape[1]), configuration)

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight; an InputError says that bitsandbytes is not installed."""
        configuration, maxima = quantized.configuration, quantized.tensors["scales"]
        if "scale_codes" in quantized.tensors:
            maxima = (
                _functional()
                .dequantize_blockwise(
                    quantized.tensors["scale_codes"], absmax=maxima, blocksize=SCALE_BLOCK_SIZE
                )
                .add_(quantized.tensors["scale_offset"])
            )
        flat = _dequantize_blocks(
            quantized.tensors["codes"],
            maxima,
            configuration.text("data_type"),
            configuration.integer("block_size"),
        )
        rows, columns = quantized.shape
        return flat.view(-1)[: rows * columns].view(rows, columns)

    def look_up(
        self,
        elements: Mapping[str, Elements],
        shape: tuple[int, int],
        configuration: LayerConfiguration,
        rows: Tensor,
    ) -> Tensor:
        """Return some rows of the weight (rows × input features), float32."""
        data_type, size = configuration.text("data_type"), configuration.integer("block_size")
        positions = row_positions(rows, shape[1])
        blocks = positions // size
        if configuration.integer("scale_bits") == 8:
            levels = _functional().create_dynamic_map().to(rows.device)
            maxima = levels[elements["scale_codes"](blocks).long()]
            maxima *= elements["scales"](blocks // SCALE_BLOCK_SIZE)
            maxima += elements["scale_offset"](torch.zeros_like(positions))
        else:
            maxima = elements["scales"](blocks)
        if data_type == "int8":
            codes, levels = elements["codes"](positions), _int8_levels(rows.device)
        else:  # The first of two codes is in the high half of its byte.
            codes = codes_at(elements["codes"], 4, positions ^ 1)
            levels = _functional().get_4bit_type(data_type, device=rows.device)
        weight: Tensor = levels[codes.long()] * maxima
        return weight

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored."""
        weights = shape[0] * shape[1]
        blocks = -(-weights // configuration.integer("block_size"))
        code_bytes = packed_bytes(weights, CODE_BITS[configuration.text("data_type")])
        layout = {
            "codes": TensorLayout((code_bytes,), torch.uint8, None),
            "scales": TensorLayout((blocks,), torch.float32, None),
        }
        if configuration.integer("scale_bits") == 8:
            scale_blocks = -(-blocks // SCALE_BLOCK_SIZE)
            layout |= {
                "scale_codes": TensorLayout((blocks,), torch.uint8, None),
                "scales": TensorLayout((scale_blocks,), torch.float32, None),
                "scale_offset": TensorLayout((1,), torch.float32, None),
            }
        return layout


def _functional() -> Any:
    return optional_module("bitsandbytes.functional", "bitsandbytes")


def _quantize_blocks(flat: Tensor, data_type: str, size: int) -> tuple[Tensor, Tensor]:
    """Return packed codes and the blocks' absolute maxima."""
    functional, bits = _functional(), CODE_BITS[data_type]
    blocks = -(-flat.numel() // size)
    codes = torch.empty(packed_bytes(flat.numel(), bits), dtype=torch.uint8, device=flat.device)
    maxima = torch.empty(blocks, dtype=torch.float32, device=flat.device)
    step = chunk_of(blocks, size, flat.device)
    for first in range(0, blocks, step):
        part = _whole_blocks(flat[first * size : (first + step) * size].float(), size)
        if data_type == "int8":
            levels = _int8_levels(flat.device)
            packed, state = functional.quantize_blockwise(part, code=levels, blocksize=size)
        else:
            packed, state = functional.quantize_4bit(part, blocksize=size, quant_type=data_type)
        target = codes[first * size * bits // 8 :][: packed.numel()]
        target.copy_(packed.view(-1)[: target.numel()])
        maxima[first : first + step] = state.absmax
    return codes, maxima


def _dequantize_blocks(codes: Tensor, maxima: Tensor, data_type: str, size: int) -> Tensor:
    """Return the float32 weights of whole blocks; zeros fill the last one's codes."""
    functional = _functional()
    codes = _whole_blocks(codes, size * CODE_BITS[data_type] // 8)
    if data_type == "int8":
        flat: Tensor = functional.dequantize_blockwise(
            codes, absmax=maxima, code=_int8_levels(codes.device), blocksize=size
        )
        return flat
    # As one row of whole blocks: bitsandbytes 0.50 restarts the blocks at each row on CPUs with
    # AVX-512, which is wrong where a row is not a multiple of a block.
    state = functional.QuantState(
        maxima,
        shape=(maxima.numel() * size,),
        dtype=torch.float32,
        blocksize=size,
        quant_type=data_type,
    )
    row: Tensor = functional.dequantize_4bit(codes.view(-1, 1), state)
    return row


def _int8_levels(device: torch.device) -> Tensor:
    """Return the 256 levels of int8 in [-1, 1], two of which are zero up to rounding."""
    levels: Tensor = _functional().create_linear_map(signed=True, total_bits=8).to(device)
    return levels


def _whole_blocks(flat: Tensor, size: int) -> Tensor:
    """Return a vector with zeros after it that fill its last block."""
    missing = -flat.numel() % size
    return torch.nn.functional.pad(flat, (0, missing)) if missing else flat
