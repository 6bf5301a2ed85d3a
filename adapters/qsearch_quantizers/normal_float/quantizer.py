"""Normal-float quantizer with two-level scales (QLoRA, arXiv:2305.14314; LQ-LoRA, 2311.12023)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import TensorLayout
from qsearch.space.configuration import Choices, LayerConfiguration
from qsearch_quantizers.checks import check_weight, choices_of, in_order
from qsearch_quantizers.levels import (
    LevelTable,
    chunk_of,
    decode,
    decode_packed,
    encode,
    level_table,
)
from qsearch_quantizers.normal_float.nf4_operator import nf4_operator
from qsearch_quantizers.packed.bit_packing import pack, packed_bytes, unpack

Bits = Literal[2, 3, 4, 8]
ScaleDtype = Literal["bfloat16", "float16", "float32"]
BlockSize = Literal[16, 32, 64]
ScaleBlockSize = Literal[16, 64, 256]

DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
SHRINK: dict[int, float] = {2: 0.65, 3: 0.85, 4: 0.93, 8: 1.0}
"""By bits, the second scale tried for a block as a part of the first; 1 means the next lower."""

TINY = torch.finfo(torch.float32).tiny


class NormalFloat:
    """Codes on normal quantiles, blocks scaled by quantized absolute maxima.

    A weight is flattened row by row and cut into blocks of ``block_size``; only the last block
    can be partial, so the storage formula holds up to one block whatever the shape. Blocks form
    scale blocks of ``scale_block_size``. The greatest absolute value of a scale block is kept in
    ``scale_dtype``, and each block's scale is a multiple of 2^-scale_bits of it, from 1 to
    2^scale_bits. So no scale is zero, and a block at the maximum keeps it.

    Two scales are tried for each block: the least multiple that is not below its absolute
    maximum, and a smaller one (:data:`SHRINK`) that clips the largest weights to represent the
    others better. The one with the least squared error of the block is kept, and codes are
    chosen under the scale as stored. Measured on MiniLM and normal weights (relative error, 2-bit
    scales, blocks of 64 × 16): with 4 bits 0.10, as the nearest multiple and geometric grids,
    against 0.106 for the next multiple above; with 8 bits 0.006, where the nearest multiple
    clips and gives 0.03; with 2 bits 0.44, where both others give 0.57 or more. The error need
    not fall as ``scale_bits`` grows: a coarse grid clips more, which helps at 2 bits.
    """

    name = "normal-float"

    class Options(BaseModel):
        """Which values of each knob a study may use; kept in the order of the defaults."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        bits: tuple[Bits, ...] = (2, 3, 4, 8)
        scale_bits: tuple[Bits, ...] = (2, 3, 4, 8)
        scale_dtype: tuple[ScaleDtype, ...] = ("bfloat16", "float16", "float32")
        block_size: tuple[BlockSize, ...] = (16, 32, 64)
        scale_block_size: tuple[ScaleBlockSize, ...] = (16, 64, 256)

        _ordered = field_validator("*")(in_order)

    def __init__(self, options: Options) -> None:
        self.options = options
        self._choices = choices_of(options)

    def choices(self) -> Choices:
        """Return the five knobs, restricted as the options say."""
        return self._choices

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return b0 + b1/B0 + bits(b2)/(B0·B1), bits per weight."""
        block_size = configuration.integer("block_size")
        scale_block_size = configuration.integer("scale_block_size")
        scale_dtype_bits = torch.finfo(DTYPES[configuration.text("scale_dtype")]).bits
        return (
            configuration.integer("bits")
            + configuration.integer("scale_bits") / block_size
            + scale_dtype_bits / (block_size * scale_block_size)
        )

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight.

        Args:
            weight: Floating-point weight (output features × input features).
            configuration: One of the quantizer's layer configurations.

        Returns:
            ``codes`` (packed, with the halves of each byte swapped at 4 bits, uint8),
            ``scale_codes`` (blocks, uint8) and ``scales`` (scale blocks, in the scale dtype).

        Raises:
            InputError: If the weight is no finite floating-point matrix, or the layer
                configuration is not one of the quantizer's.
        """
        self._choices.index(configuration)
        check_weight(weight)
        bits, block_size = configuration.integer("bits"), configuration.integer("block_size")
        flat = weight.detach().contiguous().view(-1)
        absmax = _absolute_maxima(flat, block_size)
        scale_codes, scales = _quantize_scales(absmax, configuration)
        upper = _block_scales(scale_codes, scales, configuration)
        lower_codes = _shrunk(scale_codes, SHRINK[bits])
        lower = _block_scales(lower_codes, scales, configuration)
        table = level_table(bits, weight.device)
        codes = _empty_codes(flat, bits)
        step = chunk_of(absmax.numel(), block_size, weight.device)
        for first in range(0, absmax.numel(), step):
            blocks = _blocks(flat, first, step, block_size)
            chosen, use_lower = _least_error_codes(
                blocks, upper[first : first + step], lower[first : first + step], table
            )
            _pack_blocks(chosen, bits, codes, first, flat.numel())
            torch.where(
                use_lower,
                lower_codes[first : first + step],
                scale_codes[first : first + step],
                out=scale_codes[first : first + step],
            )
        return QuantizedTensor(
            {"codes": codes, "scale_codes": scale_codes, "scales": scales},
            (weight.shape[0], weight.shape[1]),
            configuration,
        )

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features)."""
        configuration = quantized.configuration
        scales = _block_scales(
            quantized.tensors["scale_codes"], quantized.tensors["scales"], configuration
        )
        return nf_decode(
            quantized.tensors["codes"],
            scales,
            configuration.integer("bits"),
            configuration.integer("block_size"),
            quantized.shape,
        )

    def dequantize_rows(self, quantized: QuantizedTensor, first: int, last: int) -> Tensor:
        """Return some rows of the weight (last - first × input features), float32."""
        configuration, columns = quantized.configuration, quantized.shape[1]
        bits, size = configuration.integer("bits"), configuration.integer("block_size")
        per_scale = configuration.integer("scale_block_size")
        start, stop = first * columns, last * columns
        # From the first scale block that the rows touch: scales begin with it.
        scale_block = start // (size * per_scale)
        block, end = scale_block * per_scale, -(-stop // size)
        scales = _block_scales(
            quantized.tensors["scale_codes"][block:end],
            quantized.tensors["scales"][scale_block : -(-end // per_scale)],
            configuration,
        )
        first_block = start // size
        begin = first_block * size
        end_weight = min(end * size, quantized.shape[0] * columns)
        codes = quantized.tensors["codes"][begin * bits // 8 : packed_bytes(end_weight, bits)]
        flat = nf_decode(codes, scales[first_block - block :], bits, size, (end_weight - begin,))
        return flat[start - begin : stop - begin].view(last - first, columns)

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored."""
        weights = shape[0] * shape[1]
        blocks = -(-weights // configuration.integer("block_size"))
        scale_blocks = -(-blocks // configuration.integer("scale_block_size"))
        code_bytes = packed_bytes(weights, configuration.integer("bits"))
        return {
            "codes": TensorLayout((code_bytes,), torch.uint8, None),
            "scale_codes": TensorLayout(
                (blocks,), torch.uint8, configuration.integer("scale_bits")
            ),
            "scales": TensorLayout(
                (scale_blocks,), DTYPES[configuration.text("scale_dtype")], None
            ),
        }


def nf_encode(weight: Tensor, bits: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Quantize with one level of float32 scales, as QLoRA without double quantization.

    Args:
        weight: Finite floating-point tensor; it is flattened row by row.
        bits: 2, 3, 4 or 8.
        block_size: Number of weights that share a scale, a multiple of 8.

    Returns:
        Packed codes (uint8) and absolute maxima (blocks, float32).
    """
    flat = weight.detach().contiguous().view(-1)
    absmax = _absolute_maxima(flat, block_size)
    table = level_table(bits, weight.device)
    codes = _empty_codes(flat, bits)
    step = chunk_of(absmax.numel(), block_size, weight.device)
    for first in range(0, absmax.numel(), step):
        scales = absmax[first : first + step].clamp(min=TINY)
        scaled = _blocks(flat, first, step, block_size) * scales.reciprocal().unsqueeze(1)
        chosen = encode(scaled.clamp_(-1, 1), table)
        _pack_blocks(chosen, bits, codes, first, flat.numel())
    return codes, absmax


def nf_decode(
    codes: Tensor, scales: Tensor, bits: int, block_size: int, shape: tuple[int, ...]
) -> Tensor:
    """Return levels times scales.

    Args:
        codes: Packed codes of a weight, flattened row by row into blocks, uint8.
        scales: One scale a block (blocks), float32.
        bits: Bits of the codes: 2, 3, 4 or 8.
        block_size: Number of weights that share a scale, a multiple of 8.
        shape: Shape of the weight.

    Returns:
        Weight of that shape, float32.
    """
    count = math.prod(shape)
    whole = count // block_size
    decode_nf4 = nf4_operator(codes.device) if bits == 4 and whole else None
    if decode_nf4 is not None and whole * block_size == count:
        return decode_nf4(codes, scales, block_size).view(shape)
    weight = torch.empty(shape, dtype=torch.float32, device=codes.device)
    flat = weight.view(-1)
    step = chunk_of(whole, block_size, codes.device)
    for first in range(0, whole, step):
        last = min(first + step, whole)
        part = flat[first * block_size : last * block_size]
        some = codes[first * block_size * bits // 8 : last * block_size * bits // 8]
        decode_packed(some, bits, part)
        part.view(-1, block_size).mul_(scales[first:last].unsqueeze(1))
    rest = flat[whole * block_size :]
    if rest.numel():
        last_bytes = codes[whole * block_size * bits // 8 :]
        some = unpack(_halves_swapped(last_bytes, bits), bits, rest.numel())
        rest.copy_(level_table(bits, codes.device).levels[some.long()] * scales[whole])
    return weight


def _empty_codes(flat: Tensor, bits: int) -> Tensor:
    size = packed_bytes(flat.numel(), bits)
    return torch.empty(size, dtype=torch.uint8, device=flat.device)


def _blocks(flat: Tensor, first: int, count: int, block_size: int) -> Tensor:
    """Return up to ``count`` blocks as float32 rows; zeros fill the last one."""
    part = flat[first * block_size : (first + count) * block_size].float()
    return torch.nn.functional.pad(part, (0, -part.numel() % block_size)).view(-1, block_size)


def _pack_blocks(blocks: Tensor, bits: int, packed: Tensor, first: int, count: int) -> None:
    """Pack the codes of blocks (blocks × block size) from block ``first`` on; ``count`` are all."""
    start = first * blocks.shape[1]
    some = _halves_swapped(pack(blocks.view(-1)[: count - start], bits), bits)
    packed[start * bits // 8 :][: some.numel()].copy_(some)


def _halves_swapped(packed: Tensor, bits: int) -> Tensor:
    """Return bytes of 4-bit codes with their halves swapped, as bitsandbytes has them."""
    return (packed << 4).bitwise_or_(packed >> 4) if bits == 4 else packed


def _absolute_maxima(flat: Tensor, block_size: int) -> Tensor:
    blocks = -(-flat.numel() // block_size)
    absmax = torch.empty(blocks, dtype=torch.float32, device=flat.device)
    step = chunk_of(blocks, block_size, flat.device)
    for first in range(0, blocks, step):
        part = _blocks(flat, first, step, block_size)
        torch.amax(part.abs(), dim=1, out=absmax[first : first + step])
    return absmax


def _quantize_scales(absmax: Tensor, configuration: LayerConfiguration) -> tuple[Tensor, Tensor]:
    """Return the scale codes at or above each absolute maximum, and the scale blocks' maxima."""
    size = configuration.integer("scale_block_size")
    dtype = DTYPES[configuration.text("scale_dtype")]
    steps = 2 ** configuration.integer("scale_bits")
    padded = torch.nn.functional.pad(absmax, (0, -absmax.numel() % size)).view(-1, size)
    greatest = padded.amax(dim=1)
    # a narrow dtype may neither overflow nor turn a scale block that has weights into zeros
    smallest = torch.finfo(dtype).smallest_normal
    scales = greatest.clamp(smallest, torch.finfo(dtype).max).to(dtype)
    scales = torch.where(greatest > 0, scales, torch.zeros_like(scales))
    ratio = padded / scales.float().clamp(min=TINY).unsqueeze(1)
    codes = (ratio * steps).ceil_().sub_(1).clamp_(0, steps - 1).to(torch.uint8)
    return codes.view(-1)[: absmax.numel()].clone(), scales


def _shrunk(codes: Tensor, factor: float) -> Tensor:
    """Return the codes of scales about ``factor`` times as large, and at least one step less."""
    shrunk = (codes.float().add_(1) * factor).round_().sub_(1)
    return torch.minimum(shrunk, codes.float().sub_(1)).clamp_(min=0).to(torch.uint8)


def _block_scales(codes: Tensor, scales: Tensor, configuration: LayerConfiguration) -> Tensor:
    """Return the scale of each block (blocks), float32."""
    size = configuration.integer("scale_block_size")
    units = scales.float() / 2 ** configuration.integer("scale_bits")
    multiples = codes.float().add_(1)
    whole = multiples.numel() // size
    multiples[: whole * size].view(whole, size).mul_(units[:whole].unsqueeze(1))
    if whole * size < multiples.numel():
        multiples[whole * size :].mul_(units[whole:])
    return multiples


def _least_error_codes(
    blocks: Tensor, upper: Tensor, lower: Tensor, table: LevelTable
) -> tuple[Tensor, Tensor]:
    """Return the codes of the better of two scales by block, and where it is the lower one."""
    candidates = []
    for scales in (upper, lower):
        scaled = blocks * scales.clamp(min=TINY).reciprocal().unsqueeze(1)
        codes = encode(scaled.clamp(-1, 1), table)
        error = torch.linalg.vector_norm(decode(codes, table).sub_(scaled), dim=1) * scales
        candidates.append((codes, error))
    (upper_codes, upper_error), (lower_codes, lower_error) = candidates
    use_lower = lower_error < upper_error
    return torch.where(use_lower.unsqueeze(1), lower_codes, upper_codes), use_lower
