"""Reading weights of bitsandbytes, hqq and torchao; of these, the first needs its package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import Elements, TensorLayout
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.decoding import KnobDecoder, Knobs
from qsearch_quantizers.integer.decoder import SCHEMES, GroupedDecoder
from qsearch_quantizers.libraries.optional import optional_module
from qsearch_quantizers.packed.bit_packing import codes_at, packed_bytes, row_positions

CODE_BITS: dict[str, int] = {"fp4": 4, "nf4": 4, "int8": 8}
SCALE_BLOCK_SIZE = 256
"""Blocks whose quantized scales share a float32 one in bitsandbytes' double quantization."""


class HQQDecoder(GroupedDecoder):
    """Reads groups with zero points that are no integers."""

    name = "hqq"
    KNOBS: ClassVar[Knobs] = {"bits": (2, 3, 4, 8), "group_size": (32, 64, 128)}

    def zero_points(self, configuration: LayerConfiguration) -> torch.dtype | None:
        """Return float16."""
        return torch.float16


class TorchAODecoder(GroupedDecoder):
    """Reads groups of integers."""

    name = "torchao"
    KNOBS: ClassVar[Knobs] = {"bits": (4, 8), "group_size": (32, 64, 128, 256), "scheme": SCHEMES}

    def zero_points(self, configuration: LayerConfiguration) -> torch.dtype | None:
        """Return uint8 for the asymmetric scheme."""
        return torch.uint8 if configuration.text("scheme") == "asymmetric" else None


class BitsAndBytesDecoder(KnobDecoder):
    """Reads codes of bitsandbytes' data types, as bitsandbytes does."""

    name = "bitsandbytes"
    KNOBS: ClassVar[Knobs] = {
        "data_type": tuple(CODE_BITS),
        "block_size": (64, 128, 256, 512),
        "scale_bits": (8, 32),
    }

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight; an InputError says that bitsandbytes is not installed."""
        configuration, maxima = quantized.configuration, quantized.tensors["scales"]
        if "scale_codes" in quantized.tensors:
            maxima = (
                functional()
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
            levels = functional().create_dynamic_map().to(rows.device)
            maxima = levels[elements["scale_codes"](blocks).long()]
            maxima *= elements["scales"](blocks // SCALE_BLOCK_SIZE)
            maxima += elements["scale_offset"](torch.zeros_like(positions))
        else:
            maxima = elements["scales"](blocks)
        if data_type == "int8":
            codes, levels = elements["codes"](positions), int8_levels(rows.device)
        else:  # The first of two codes is in the high half of its byte.
            codes = codes_at(elements["codes"], 4, positions ^ 1)
            levels = functional().get_4bit_type(data_type, device=rows.device)
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


def functional() -> Any:
    return optional_module("bitsandbytes.functional", "bitsandbytes")


def _dequantize_blocks(codes: Tensor, maxima: Tensor, data_type: str, size: int) -> Tensor:
    """Return the float32 weights of whole blocks; zeros fill the last one's codes."""
    library = functional()
    codes = whole_blocks(codes, size * CODE_BITS[data_type] // 8)
    if data_type == "int8":
        flat: Tensor = library.dequantize_blockwise(
            codes, absmax=maxima, code=int8_levels(codes.device), blocksize=size
        )
        return flat
    # As one row of whole blocks: bitsandbytes 0.50 restarts the blocks at each row on CPUs with
    # AVX-512, which is wrong where a row is not a multiple of a block.
    state = library.QuantState(
        maxima,
        shape=(maxima.numel() * size,),
        dtype=torch.float32,
        blocksize=size,
        quant_type=data_type,
    )
    row: Tensor = library.dequantize_4bit(codes.view(-1, 1), state)
    return row


def int8_levels(device: torch.device) -> Tensor:
    """Return the 256 levels of int8 in [-1, 1], two of which are zero up to rounding."""
    levels: Tensor = functional().create_linear_map(signed=True, total_bits=8).to(device)
    return levels


def whole_blocks(flat: Tensor, size: int) -> Tensor:
    """Return a vector with zeros after it that fill its last block."""
    missing = -flat.numel() % size
    return torch.nn.functional.pad(flat, (0, missing)) if missing else flat
