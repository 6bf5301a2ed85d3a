"""Normal-float quantizer with two-level scales (QLoRA, arXiv:2305.14314; LQ-LoRA, 2311.12023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

from qsearch.plugins.protocols import QuantizedTensor
from qsearch.plugins.tensor_layout import Elements, TensorLayout
from qsearch.space.configuration import LayerConfiguration
from qsearch_quantizers.knobs import KnobOptions, KnobQuantizer

if TYPE_CHECKING:
    from torch import Tensor

Bits = Literal[2, 3, 4, 8]
ScaleDtype = Literal["bfloat16", "float16", "float32"]
BlockSize = Literal[16, 32, 64]
ScaleBlockSize = Literal[16, 64, 256]

SCALE_BITS: dict[ScaleDtype, int] = {"bfloat16": 16, "float16": 16, "float32": 32}

SHRINK: dict[int, float] = {2: 0.65, 3: 0.85, 4: 0.93, 8: 1.0}
"""By bits, the second scale tried for a block as a part of the first; 1 means the next lower."""


class NormalFloat(KnobQuantizer):
    """Codes on normal quantiles, blocks scaled by quantized absolute maxima.

    A weight is flattened row by row and cut into blocks of ``block_size``; only the last block
    can be partial, so the storage formula holds up to one block whatever the shape. Blocks form
    scale blocks of ``scale_block_size``. The greatest absolute value of a scale block is kept in
    ``scale_dtype``, and each block's scale is a multiple of 2^-scale_bits of it, from 1 to
    2^scale_bits. So no scale is zero, and a block at the maximum keeps it.

    Two scales are tried for each block: the least multiple that is not below its absolute
    maximum, and a smaller one (:data:`SHRINK`) that clips the largest weights to represent the
    others better. The one with the least squared error of the block is kept, and codes belong to
    the scale as stored. Measured relative errors are far below those of the nearest multiple at 8
    bits (0.006, not 0.03) and at 2 bits (0.44, not 0.57), and as good at 4. The error need not fall
    as ``scale_bits`` grows: a coarse grid clips more, which helps at 2 bits.
    """

    name = "normal-float"

    class Options(KnobOptions):
        """Which values of each knob a study may use."""

        bits: tuple[Bits, ...] = (2, 3, 4, 8)
        scale_bits: tuple[Bits, ...] = (2, 3, 4, 8)
        scale_dtype: tuple[ScaleDtype, ...] = ("bfloat16", "float16", "float32")
        block_size: tuple[BlockSize, ...] = (16, 32, 64)
        scale_block_size: tuple[ScaleBlockSize, ...] = (16, 64, 256)

    def require_installed(self) -> None:
        """Do nothing: it needs no package of its own."""

    def storage_bits(self, configuration: LayerConfiguration) -> float:
        """Return b0 + b1/B0 + bits(b2)/(B0·B1), bits per weight."""
        block_size = configuration.integer("block_size")
        scale_block_size = configuration.integer("scale_block_size")
        scale_dtype_bits = SCALE_BITS[cast(ScaleDtype, configuration.text("scale_dtype"))]
        return (
            configuration.integer("bits")
            + configuration.integer("scale_bits") / block_size
            + scale_dtype_bits / (block_size * scale_block_size)
        )

    def quantize(self, weight: Tensor, configuration: LayerConfiguration) -> QuantizedTensor:
        """Quantize a weight.

        Returns:
            ``codes`` (packed, with the halves of each byte swapped at 4 bits, uint8),
            ``scale_codes`` (blocks, uint8) and ``scales`` (scale blocks, in the scale dtype).
        """
        import torch

        from qsearch_quantizers.normal_float.blocks import (
            absolute_maxima,
            blocks_of,
            empty_codes,
            least_error_codes,
            pack_blocks,
        )
        from qsearch_quantizers.normal_float.levels import level_table
        from qsearch_quantizers.normal_float.scales import block_scales, quantize_scales, shrunk
        from qsearch_quantizers.weights import check_weight, chunk_of

        self._choices.index(configuration)
        check_weight(weight)
        bits, block_size = configuration.integer("bits"), configuration.integer("block_size")
        flat = weight.detach().contiguous().view(-1)
        absmax = absolute_maxima(flat, block_size)
        scale_codes, scales = quantize_scales(absmax, configuration)
        upper = block_scales(scale_codes, scales, configuration)
        lower_codes = shrunk(scale_codes, SHRINK[bits])
        lower = block_scales(lower_codes, scales, configuration)
        table = level_table(bits, weight.device)
        codes = empty_codes(flat, bits)
        step = chunk_of(absmax.numel(), block_size, weight.device)
        for first in range(0, absmax.numel(), step):
            part = slice(first, first + step)
            blocks = blocks_of(flat, first, step, block_size)
            best, use_lower = least_error_codes(blocks, upper[part], lower[part], table)
            pack_blocks(best, bits, codes, first, flat.numel())
            scale_codes[part] = torch.where(use_lower, lower_codes[part], scale_codes[part])
        return QuantizedTensor(
            {"codes": codes, "scale_codes": scale_codes, "scales": scales},
            (weight.shape[0], weight.shape[1]),
            configuration,
        )

    def dequantize(self, quantized: QuantizedTensor) -> Tensor:
        """Return the float32 weight (output features × input features)."""
        from qsearch_quantizers.normal_float.blocks import nf_decode
        from qsearch_quantizers.normal_float.scales import block_scales

        configuration = quantized.configuration
        scales = block_scales(
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
        from qsearch_quantizers.normal_float.blocks import nf_decode
        from qsearch_quantizers.normal_float.scales import block_scales
        from qsearch_quantizers.packed.bit_packing import packed_bytes

        configuration, columns = quantized.configuration, quantized.shape[1]
        bits, size = configuration.integer("bits"), configuration.integer("block_size")
        per_scale = configuration.integer("scale_block_size")
        start, stop = first * columns, last * columns
        # From the first scale block that the rows touch: scales begin with it.
        scale_block = start // (size * per_scale)
        block, end = scale_block * per_scale, -(-stop // size)
        scales = block_scales(
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

    def look_up(
        self,
        elements: Mapping[str, Elements],
        shape: tuple[int, int],
        configuration: LayerConfiguration,
        rows: Tensor,
    ) -> Tensor:
        """Return some rows of the weight (rows × input features), float32."""
        from qsearch_quantizers.normal_float.blocks import levels_at
        from qsearch_quantizers.packed.bit_packing import row_positions

        bits, size = configuration.integer("bits"), configuration.integer("block_size")
        positions = row_positions(rows, shape[1])
        blocks = positions // size
        units = elements["scales"](blocks // configuration.integer("scale_block_size")).float()
        units /= 2 ** configuration.integer("scale_bits")
        scales = elements["scale_codes"](blocks).float().add_(1).mul_(units)
        return levels_at(elements["codes"], bits, positions).mul_(scales)

    def layout(
        self, shape: tuple[int, int], configuration: LayerConfiguration
    ) -> Mapping[str, TensorLayout]:
        """Return how the tensors of a weight of this shape are stored."""
        import torch

        from qsearch_quantizers.normal_float.scales import DTYPES
        from qsearch_quantizers.packed.bit_packing import packed_bytes

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
